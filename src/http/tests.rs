//! The doors against their description.

use std::collections::BTreeSet;

use utoipa::OpenApi as _;

use super::doors;
use super::openapi::Description;

#[test]
fn the_description_and_the_doors_are_the_same() {
    let hung: BTreeSet<(String, String)> = doors()
        .into_iter()
        .filter(|door| door.path != "/openapi.json")
        .map(|door| (door.method.as_str().to_lowercase(), door.path.replace(":.+", "")))
        .collect();
    let described = serde_json::to_value(Description::openapi()).unwrap();
    let described: BTreeSet<(String, String)> = described["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())))
        .collect();
    assert_eq!(hung, described);
}

#[test]
fn a_path_has_one_kind_of_access_and_one_door_a_method() {
    let doors = doors();
    let found: BTreeSet<(&str, &str)> = doors.iter().map(|door| (door.path, door.method.as_str())).collect();
    assert_eq!(found.len(), doors.len());
    for door in &doors {
        assert!(doors.iter().all(|other| other.path != door.path || other.access == door.access), "{}", door.path);
    }
}
