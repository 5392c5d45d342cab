use nyx_domain::Signals;

use super::*;
use crate::learn::{Artifact as _, ArtifactFile, TrainedOn};
use crate::test_rng::TestRng;

/// Answers of two specialists: kairos' are right as often as the square of what it says, eleos' as
/// it says when it abstains and never else.
fn rows(count: usize) -> Vec<ConfidenceRow> {
    let mut random = TestRng::new();
    (0..count)
        .map(|index| {
            let top = 0.5 + random.unit() / 2.0;
            let eleos = index % 2 == 0;
            let abstains = random.unit() < 0.5;
            let right =
                random.unit() < if eleos { if abstains { 0.9 } else { 0.1 } } else { top * top };
            let signals = Signals {
                choices: vec![1.0 - top, top],
                answer: if eleos && abstains { "Cannot say" } else { "The man" }.into(),
                complete: true,
                ..Signals::default()
            };
            let specialist = if eleos { "eleos" } else { "kairos" };
            ConfidenceRow {
                specialist: specialist.into(),
                signals,
                right,
                group: if index % 3 == 0 { String::new() } else { (index / 7).to_string() },
            }
        })
        .collect()
}

#[test]
fn learns_each_specialists_own_truth() {
    let (confidences, report) = fit(&rows(2_000));
    let says = |name: &str, top: f64, answer: &str| {
        let signals = Signals {
            choices: vec![1.0 - top, top],
            answer: answer.into(),
            complete: true,
            ..Signals::default()
        };
        confidences.apply(name, &signals).unwrap()
    };
    assert!(
        (says("eleos", 0.75, "Cannot say") - 0.9).abs() < 0.1
            && (says("eleos", 0.75, "The man") - 0.1).abs() < 0.1
    );
    for top in [0.6, 0.75, 0.9] {
        assert!(
            (says("kairos", top, "The man") - top * top).abs() < 0.18,
            "{top}: {}",
            says("kairos", top, "The man")
        );
    }
    assert_eq!(confidences.apply("moira", &Signals::default()), None);
    assert_eq!(confidences.names().collect::<Vec<_>>(), ["eleos", "kairos"]);
    assert!(
        report.pooled.ece.unwrap() < 0.07
            && report.pooled.auroc.unwrap() > 0.75
            && report.pooled.brier_skill.unwrap() > 0.2,
        "{report:?}"
    );
    assert_eq!((report.pooled.rows, report.specialists["eleos"].rows), (2_000, 1_000));
}

#[test]
fn no_confidence_before_there_are_enough_examples() {
    assert_eq!(fit(&[]).0, Confidences::default());
    assert_eq!(fit(&rows(90)).0.names().count(), 0);
    let always_right: Vec<_> =
        rows(400).into_iter().map(|row| ConfidenceRow { right: true, ..row }).collect();
    let (confidences, report) = fit(&always_right);
    assert_eq!((confidences.names().count(), report.pooled.rows, report.pooled.ece), (0, 0, None));
}

#[test]
fn signals_that_tell_nothing_end_near_the_base_rate() {
    let mut random = TestRng::new();
    let rows: Vec<_> = rows(1_200)
        .into_iter()
        .map(|row| ConfidenceRow { right: random.unit() < 0.3, ..row })
        .collect();
    let (confidences, report) = fit(&rows);
    let off: Vec<f64> = rows
        .iter()
        .take(50)
        .map(|row| (confidences.apply(&row.specialist, &row.signals).unwrap() - 0.3).abs())
        .collect();
    // 600 rows a specialist leave a slope of a few hundredths by chance, which rare signals
    // multiply
    assert!(off.iter().all(|off| *off < 0.3) && off.iter().sum::<f64>() / 50.0 < 0.12, "{off:?}");
    assert!(report.pooled.ece.unwrap() < 0.1, "{report:?}");
}

#[test]
fn a_file_reads_back_and_a_wrong_one_is_refused() {
    let (confidences, _) = fit(&rows(400));
    let file =
        ArtifactFile::new(TrainedOn::of([("eleos", "one")]), Some("0".repeat(64)), confidences);
    let text = file.write().unwrap();
    let back = ArtifactFile::<Confidences>::parse(&text).unwrap();
    let signals =
        Signals { choices: vec![0.2, 0.8], answer: "Cannot say".into(), ..Signals::default() };
    for name in ["eleos", "kairos"] {
        let (read, written) = (
            back.parameters.apply(name, &signals).unwrap(),
            file.parameters.apply(name, &signals).unwrap(),
        );
        // the last bit of a number may be lost in its text
        assert!((read - written).abs() < 1e-12, "{name}: {read}, {written}");
        assert!(["platt", "isotonic"].contains(&back.parameters.map_of(name).unwrap()));
    }
    let platt = r#"{"platt": {"slope": 1.0, "offset": 0.0}}"#;
    let calibrator = |map: &str, rows: &str| {
        format!(
            r#"{{"specialists": {{"eleos": {{"rows": 1, "base_rate": 0.5, "map": {map}, "model": {rows}}}}}}}"#
        )
    };
    let model =
        serde_json::json!({"weights": vec![vec![0.0; signals::FEATURES]; 2], "bias": [0.0, 0.0]})
            .to_string();
    let check = |text: String| serde_json::from_str::<Confidences>(&text).unwrap().check();
    assert_eq!(check(calibrator(platt, &model)), Ok(()));
    for (map, rows, reported) in [
        (platt, r#"{"weights": [[0.0]], "bias": [0.0]}"#, "eleos.model has 1 rows of 1 weights"),
        (r#"{"isotonic": {"points": [[0.0, 0.5], [1.0, 0.4]]}}"#, model.as_str(), "eleos.map"),
        (r#"{"isotonic": {"points": [[1.0, 0.5], [1.0, 0.6]]}}"#, model.as_str(), "eleos.map"),
        (r#"{"isotonic": {"points": [[1.0, 1.5]]}}"#, model.as_str(), "eleos.map"),
    ] {
        let error = check(calibrator(map, rows)).unwrap_err();
        assert!(error.contains(reported), "{error}");
    }
}

#[test]
fn what_was_learned_later_counts_before_what_was_learned_earlier() {
    let (early, _) = fit(&rows(400));
    let eleos: Vec<_> = rows(600).into_iter().filter(|row| row.specialist == "eleos").collect();
    let (late, _) = fit(&eleos);
    let both = late.clone().or(&early);
    let signals =
        Signals { choices: vec![0.2, 0.8], answer: "Cannot say".into(), ..Signals::default() };
    assert_eq!(both.apply("eleos", &signals), late.apply("eleos", &signals));
    assert_eq!(both.apply("kairos", &signals), early.apply("kairos", &signals));
}
