//! Compares the routes with the OpenAPI document.

use std::collections::BTreeSet;

use utoipa::OpenApi as _;

use super::openapi::Description;
use super::routes;

#[test]
fn the_openapi_description_matches_the_routes() {
    let hung: BTreeSet<(String, String)> = routes()
        .into_iter()
        .filter(|route| route.path != "/openapi.json")
        .map(|route| (route.method.as_str().to_lowercase(), route.path.replace(":.+", "")))
        .collect();
    let described = serde_json::to_value(Description::openapi()).unwrap();
    let described: BTreeSet<(String, String)> = described["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone()))
        })
        .collect();
    assert_eq!(hung, described);
}

#[test]
fn a_path_has_one_kind_of_access_and_one_route_per_method() {
    let routes = routes();
    let found: BTreeSet<(&str, &str)> =
        routes.iter().map(|route| (route.path, route.method.as_str())).collect();
    assert_eq!(found.len(), routes.len());
    for route in &routes {
        assert!(
            routes.iter().all(|other| other.path != route.path || other.access == route.access),
            "{}",
            route.path
        );
    }
}
