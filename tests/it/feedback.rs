//! Outcomes and feedback over HTTP.

use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::program::{JSON, Program, write};

#[test]
fn a_forecast_is_a_promise() {
    promised(&Program::new());
}

#[test]
fn a_forecast_is_a_promise_on_postgresql_too() {
    let postgres = Postgres::start();
    promised(&Program::new().with("NYX__PHOEBE__URL", postgres.url()));
}

#[test]
fn a_forecast_in_words_is_what_the_model_wrote() {
    let program = Program::new();
    // the model's output is known, so that it can be parsed
    let seer = "name = \"seer\"\npurpose = \"forecasts\"\nstrategy = \"forecast\"\n[prompt]\nfixed = \"Answer every question with this line and nothing else: \
        Probability: 70%\"\n[settings]\nsamples = 3\n[sampling]\ntemperature = 0.0\n\
        repetition_penalty = 1.0\nmax_tokens = 12\n";
    write(&program.data_dir().join("specialists/seer.toml"), seer);
    let serving = program.serve();
    let ask = |body: Value| {
        let (status, answer) = serving.post("/infer", &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let asked = |more: Value| {
        // a small model repeats its earlier answer
        let said = ["user", "assistant"].repeat(3).into_iter().chain(["user"]);
        let text =
            |role: &str| if role == "user" { "Will it rain tomorrow?" } else { "Probability: 70%" };
        let messages: Vec<Value> =
            said.map(|role| json!({"role": role, "content": text(role)})).collect();
        let mut body = json!({"messages": messages, "specialist": "seer", "seed": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let alone = ask(asked(json!({})));
    assert!(alone["answer"].as_str().unwrap().trim().ends_with("Probability: 70%"), "{alone}");
    assert_eq!(
        (&alone["probability"], &alone["trace"]["forecast"]["stated"]),
        (&json!(0.7), &json!([0.7, 0.7, 0.7])),
        "{alone}"
    );
    // equal weights in log-odds: ln(7/3) and ln(3/7) average to even odds
    let reply = ask(asked(json!({"prior": 0.3})));
    assert!(
        (reply["probability"].as_f64().unwrap() - 0.5).abs() < 1e-9
            && reply["answer"] == alone["answer"],
        "{reply}"
    );
    // the client's stop strings and token limit hold, and without a stated probability there is no
    // forecast, whatever the prior
    for (more, longest) in
        [(json!({"max_tokens": 2, "prior": 0.3}), 2), (json!({"stop": [":"], "prior": 0.3}), 12)]
    {
        let cut = ask(asked(more));
        assert!(
            cut["usage"]["completion_tokens"].as_u64().unwrap() <= 3 * longest
                && !cut["answer"].as_str().unwrap().contains(':'),
            "{cut}"
        );
        assert_eq!(
            (&cut["probability"], &cut["trace"]["forecast"]),
            (&Value::Null, &Value::Null),
            "{cut}"
        );
    }
    // only the requested answer streams, not the samples
    let (mut streamed, mut decision) = (String::new(), Value::Null);
    for (kind, data) in serving.stream("/infer", &asked(json!({"stream": true}))).rest() {
        match kind.as_str() {
            "token" => streamed
                .push_str(serde_json::from_str::<Value>(&data).unwrap()["text"].as_str().unwrap()),
            "decision" => decision = serde_json::from_str(&data).unwrap(),
            _ => {}
        }
    }
    assert_eq!(
        (&json!(streamed), &decision["answer"]),
        (&alone["answer"], &alone["answer"]),
        "{decision}"
    );
    // with two choices the forecast is of the first, in any language
    let body = json!({"prompt": "Wird es morgen regnen?", "specialist": "moira", "choices": ["Ja", "Nein"], "prior": 0.01, "seed": 1});
    let chosen = ask(body);
    let p = chosen["probability"].as_f64().unwrap();
    assert!((chosen["choice_probabilities"]["Ja"].as_f64().unwrap() - p).abs() < 1e-12, "{chosen}");
    assert_eq!(chosen["answer"], if p >= 0.5 { "Ja" } else { "Nein" }, "{chosen}");
    let (status, recorded) = serving
        .post("/v1/outcomes", &json!({"decision_id": chosen["decision_id"], "outcome": "Nein"}));
    assert!(
        status == 200
            && (recorded["data"][0]["reward"].as_f64().unwrap() - (1.0 - 2.0 * p * p)).abs() < 1e-9,
        "{recorded}"
    );
}

fn promised(program: &Program) {
    let serving = program.serve();
    let asked = json!({"prompt": "Will it snow in Turin by 20 January 2027?", "specialist": "moira", "choices": ["Yes", "No"], "prior": 0.25,
        "now": "2027-01-01T00:00:00Z", "external_key": "snow-27"});
    let (status, forecast) = serving.post("/infer", &asked);
    assert_eq!(status, 200, "{forecast}");
    let (id, p) =
        (forecast["decision_id"].as_str().unwrap(), forecast["probability"].as_f64().unwrap());
    let (_, open) = serving.get("/v1/outcomes?open=true");
    let promise = &open["data"][0];
    assert_eq!((&promise["decision_id"], &promise["prior"]), (&json!(id), &json!(0.25)), "{open}");
    assert_eq!((&promise["external_key"], &promise["outcome"]), (&json!("snow-27"), &Value::Null));

    // resolved by the client's name for it, scored, and recorded once
    let reply = json!({"external_key": "snow-27", "outcome": true});
    let tell = |body: &Value, key: &str| {
        let header = format!("Idempotency-Key: {key}");
        serving.send("POST", "/v1/outcomes", &[JSON, &header], body.to_string().as_bytes()).json()
    };
    let near = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    // the proper score, and the calibration term of the stated confidence
    let confidence = forecast["confidence"].as_f64();
    let sure = |right: bool| {
        confidence.map_or(0.0, |confidence| -(confidence - f64::from(u8::from(right))).powi(2))
    };
    let brier = |outcome: f64| 1.0 - 2.0 * (p - outcome).powi(2);
    let score = |outcome: f64| brier(outcome) + sure((p >= 0.5) == (outcome > 0.5));
    for new in [true, false] {
        let (status, recorded) = tell(&reply, "first");
        let item = &recorded["data"][0];
        assert_eq!(
            (status, &item["decision_id"], &item["new"], &item["feedback"]["key"]),
            (200, &json!(id), &json!(new), &json!("first"))
        );
        assert!(
            near(&item["reward"], score(1.0))
                && near(&item["activation"], (brier(1.0) + 1.0) / 2.0),
            "{recorded}"
        );
    }
    assert_eq!(serving.get("/v1/outcomes?open=true").1["data"], json!([]));
    assert_eq!(serving.get("/v1/outcomes?open=false").1["data"][0]["outcome"]["input"], true);

    // the same key with other content is rejected, another key amends, and both are kept
    let (status, refused) = tell(&json!({"decision_id": id, "outcome": false}), "first");
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("conflict")), "{refused}");
    let (_, amended) = serving.post("/v1/outcomes", &json!({"decision_id": id, "outcome": "No"}));
    assert!(
        near(&amended["data"][0]["reward"], score(0.0))
            && amended["data"][0]["feedback"]["revision"] == 2,
        "{amended}"
    );
    let feedback = json!({"decision_id": format!("chatcmpl-{id}"), "thumbs": "up", "correction": "It will not snow.", "key": "f"});
    let (status, recorded) = serving.post("/v1/feedback", &feedback);
    assert!(
        status == 200 && near(&recorded["data"][0]["reward"], score(0.0) + 1.0 + sure(true)),
        "{recorded}"
    );
    let (_, story) = serving.get(&format!("/v1/decisions/{id}"));
    let reply: Vec<&Value> =
        story["feedback"].as_array().unwrap().iter().map(|verdict| &verdict["input"]).collect();
    assert_eq!(reply, [&json!(true), &json!("No"), &json!({"thumbs": "up"})], "{story}");
    assert_eq!(
        (&story["feedback"][2]["correction"], &story["probability"]),
        (&json!("It will not snow."), &json!(p))
    );
    assert!(near(&story["reward"], score(0.0) + 1.0 + sure(true)), "{story}");

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
        assert!(
            error["error"]["message"].as_str().unwrap().contains(says),
            "{path} {body}: {error}"
        );
    }
    let refused = serving.send("DELETE", "/v1/outcomes", &[], b"");
    assert!(refused.status == 405 && refused.head.contains("allow: post, get"), "{refused:?}");
    // persisted for the next process
    serving.kill();
    let (_, story) = program.serve().get(&format!("/v1/decisions/{id}"));
    assert_eq!(story["feedback"].as_array().unwrap().len(), 3, "{story}");
}

#[test]
fn feedback_moves_whom_the_master_chooses_and_a_restart_keeps_it() {
    learns(&Program::new());
}

#[test]
fn two_processes_on_one_postgresql_learn_together() {
    let postgres = Postgres::start();
    let (one, other) = (
        Program::new().with("NYX__PHOEBE__URL", postgres.url()),
        Program::new().with("NYX__PHOEBE__URL", postgres.url()),
    );
    let beside = other.with("NYX__ROUTING__TRAIT_WEIGHT_AGE_MS", "0").serve();
    let weights = learns(&one);
    assert_eq!(beside.get("/admin/traits").1, weights);
}

/// Rates some decisions and returns the final trait weights.
fn learns(program: &Program) -> Value {
    let serving = program.serve();
    let ask = |prompt: &str, seed: u64| {
        let (status, reply) =
            serving.post("/infer", &json!({"prompt": prompt, "choices": ["a", "b"], "seed": seed}));
        assert_eq!(status, 200, "{reply}");
        (
            reply["decision_id"].as_str().unwrap().to_owned(),
            reply["specialist"].as_str().unwrap().to_owned(),
        )
    };
    let rate = |id: &str, body: Value| {
        let mut body = body;
        body["decision_id"] = json!(id);
        let (status, reply) = serving.post("/v1/feedback", &body);
        assert_eq!(status, 200, "{reply}");
    };
    let weight = |name: &str| serving.get("/admin/traits").1[name].as_f64().unwrap();
    let (id, name) = ask("What did Clara say about the garden?", 1);
    assert_eq!(weight(&name), 0.0);
    rate(&id, json!({"thumbs": "up", "key": "k"}));
    let up = weight(&name);
    assert!(up > 0.0, "{up}");
    // a repeated key counts once; an amendment reverts the first and more
    rate(&id, json!({"thumbs": "up", "key": "k"}));
    assert_eq!(weight(&name), up);
    rate(&id, json!({"thumbs": "down"}));
    assert!(weight(&name) < 0.0, "{}", weight(&name));
    let history = serving.get(&format!("/admin/traits/{name}?limit=10")).1;
    let rows = history["data"].as_array().unwrap();
    assert_eq!(
        (rows.len(), &rows[1]["reason"], &rows[1]["from"]),
        (2, &json!("feedback"), &json!(0.0)),
        "{history}"
    );
    for row in rows {
        assert!(row["decision"] == id.as_str() && row["reward"].is_number(), "{history}");
    }
    assert_eq!(
        (&rows[0]["from"], &rows[0]["reason"]),
        (&rows[1]["to"], &json!("feedback: amendment")),
        "{history}"
    );

    // no learning from decisions without a draw: a specialist chosen by the client, and a crisis
    let before = serving.get("/admin/traits").1;
    let (_, own) = serving.post(
        "/infer",
        &json!({"prompt": "Who is Clara?", "specialist": "eleos", "choices": ["a", "b"]}),
    );
    let (_, crisis) = serving
        .post("/infer", &json!({"prompt": "I want to kill myself", "max_tokens": 4, "seed": 1}));
    for decision in [&own, &crisis] {
        rate(decision["decision_id"].as_str().unwrap(), json!({"value": -1}));
    }
    assert_eq!(serving.get("/admin/traits").1, before);

    for seed in 2..5 {
        let (id, _) = ask("Is it too late to call him?", seed);
        rate(&id, json!({"value": 0.5}));
    }
    let learned = serving.get("/admin/traits").1;
    assert_ne!(learned, before);
    serving.kill();
    let again = program.serve();
    assert_eq!(again.get("/admin/traits").1, learned);
    let report = program.run(&["eval", "--policy", "uniform", "--json"]).json();
    assert_eq!(report["decisions"], 4, "{report}");
    learned
}
