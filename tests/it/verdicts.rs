//! Outcomes and feedback through the doors.

use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::program::{JSON, Program};

#[test]
fn a_forecast_is_a_promise() {
    promised(&Program::new());
}

#[test]
fn a_forecast_is_a_promise_on_postgresql_too() {
    let postgres = Postgres::start();
    promised(&Program::new().with("NYX__PHOEBE__URL", postgres.url()));
}

fn promised(program: &Program) {
    let serving = program.serve();
    let asked = json!({"prompt": "Will it snow in Turin by 20 January 2027?", "specialist": "moira", "choices": ["Yes", "No"], "prior": 0.25,
        "now": "2027-01-01T00:00:00Z", "external_key": "snow-27"});
    let (status, forecast) = serving.post("/infer", &asked);
    assert_eq!(status, 200, "{forecast}");
    let (id, p) = (forecast["decision_id"].as_str().unwrap(), forecast["probability"].as_f64().unwrap());
    let (_, open) = serving.get("/v1/outcomes?open=true");
    let promise = &open["data"][0];
    assert_eq!((&promise["decision_id"], &promise["due"], &promise["prior"]), (&json!(id), &json!("2027-01-20"), &json!(0.25)), "{open}");
    assert_eq!((&promise["external_key"], &promise["outcome"]), (&json!("snow-27"), &Value::Null));

    // resolved by the caller's own name for it, scored, and heard once
    let told = json!({"external_key": "snow-27", "outcome": true});
    let tell = |body: &Value, key: &str| {
        let header = format!("Idempotency-Key: {key}");
        serving.send("POST", "/v1/outcomes", &[JSON, &header], body.to_string().as_bytes()).json()
    };
    let near = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    let score = |outcome: f64| 1.0 - 2.0 * (p - outcome).powi(2);
    for new in [true, false] {
        let (status, judged) = tell(&told, "first");
        let item = &judged["data"][0];
        assert_eq!((status, &item["decision_id"], &item["new"], &item["verdict"]["key"]), (200, &json!(id), &json!(new), &json!("first")));
        assert!(near(&item["reward"], score(1.0)) && near(&item["activation"], (score(1.0) + 1.0) / 2.0), "{judged}");
    }
    assert_eq!(serving.get("/v1/outcomes?open=true").1["data"], json!([]));
    assert_eq!(serving.get("/v1/outcomes?open=false").1["data"][0]["outcome"]["told"], true);

    // the same key for something else is refused, another key amends, and both are kept
    let (status, refused) = tell(&json!({"decision_id": id, "outcome": false}), "first");
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("conflict")), "{refused}");
    let (_, amended) = serving.post("/v1/outcomes", &json!({"decision_id": id, "outcome": "No"}));
    assert!(near(&amended["data"][0]["reward"], score(0.0)) && amended["data"][0]["verdict"]["revision"] == 2, "{amended}");
    let feedback = json!({"decision_id": format!("chatcmpl-{id}"), "thumbs": "up", "correction": "It will not snow.", "key": "f"});
    let (status, judged) = serving.post("/v1/feedback", &feedback);
    assert!(status == 200 && near(&judged["data"][0]["reward"], score(0.0) + 1.0), "{judged}");
    let (_, story) = serving.get(&format!("/v1/decisions/{id}"));
    let told: Vec<&Value> = story["verdicts"].as_array().unwrap().iter().map(|verdict| &verdict["told"]).collect();
    assert_eq!(told, [&json!(true), &json!("No"), &json!({"thumbs": "up"})], "{story}");
    assert_eq!((&story["verdicts"][2]["correction"], &story["probability"]), (&json!("It will not snow."), &json!(p)));
    assert!(near(&story["reward"], score(0.0) + 1.0), "{story}");

    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    for (path, body, status, says) in [
        ("/v1/outcomes", json!({"decision_id": nobody, "outcome": true}), 404, nobody),
        ("/v1/outcomes", json!({"external_key": "hail", "outcome": true}), 404, "hail"),
        ("/v1/outcomes", json!({"decision_id": id, "outcome": 7}), 400, "outcome is 7"),
        ("/v1/outcomes", json!({"decision_id": id, "outcome": "Maybe"}), 400, "Maybe"),
        ("/v1/outcomes", json!({"outcome": true}), 400, "external_key"),
        ("/v1/outcomes", json!({"decision_id": "seven", "outcome": true}), 400, "seven"),
        ("/v1/feedback", json!({"decision_id": nobody, "value": 1}), 404, nobody),
        ("/v1/feedback", json!({"decision_id": id, "value": 2}), 400, "value is 2"),
        ("/v1/feedback", json!({"decision_id": id}), 400, "thumbs"),
        ("/v1/feedback", json!({"decision_id": id, "thumbs": "sideways"}), 400, "sideways"),
    ] {
        let (found, error) = serving.post(path, &body);
        assert_eq!(found, status, "{path} {body}: {error}");
        assert!(error["error"]["message"].as_str().unwrap().contains(says), "{path} {body}: {error}");
    }
    let refused = serving.send("DELETE", "/v1/outcomes", &[], b"");
    assert!(refused.status == 405 && refused.head.contains("allow: post, get"), "{refused:?}");
    // still there for the next process
    serving.kill();
    let (_, story) = program.serve().get(&format!("/v1/decisions/{id}"));
    assert_eq!(story["verdicts"].as_array().unwrap().len(), 3, "{story}");
}
