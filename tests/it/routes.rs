//! The routes on the real binary and the real model: concurrency, the live stream, disconnects,
//! keys, and rejected requests.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::program::{JSON, Program, Serving};

const FIVE: [&str; 5] = ["mnemosyne", "moira", "aletheia", "kairos", "eleos"];
const PATIENCE: Duration = Duration::from_secs(90);

/// Waits for a condition.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Events received from a WebSocket of `/v1/cells`, the last being `{"closed": code}`. It stays
/// open as long as the receiver exists.
fn cells(serving: &Serving, query: &str) -> Receiver<Value> {
    let url = format!("http://{}/v1/cells{query}", serving.address);
    // more than any test produces
    let (sender, receiver) = sync_channel(100_000);
    let (opened, ready) = sync_channel(1);
    std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let (_, mut socket) = awc::Client::new().ws(url).connect().await.unwrap();
            opened.send(()).unwrap();
            while let Some(Ok(frame)) = socket.next().await {
                let reply = match frame {
                    awc::ws::Frame::Text(text) => serde_json::from_slice(&text).unwrap(),
                    awc::ws::Frame::Close(reason) => {
                        json!({ "closed": reason.map(|reason| u16::from(reason.code)) })
                    }
                    _ => continue,
                };
                if sender.send(reply).is_err() {
                    return;
                }
            }
        });
    });
    ready.recv_timeout(PATIENCE).unwrap();
    receiver
}

/// Reads until `n` decisions are recorded.
fn until_recorded(cells: &Receiver<Value>, n: usize) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    while events.iter().filter(|event| event["event"] == "recorded").count() < n {
        events.push(cells.recv_timeout(PATIENCE).unwrap());
    }
    events
}

/// A chat that continues until `max_tokens`: end-of-turn tokens are forbidden.
fn endless(specialist: &str, max_tokens: usize) -> Value {
    json!({"model": format!("nyx/{specialist}"), "messages": [{"role": "user", "content": "Tell a very long story."}], "stream": true,
        "max_tokens": max_tokens, "temperature": 1.0, "seed": 7, "logit_bias": {"0": -100, "2": -100}})
}

#[test]
fn five_at_once_stream_and_the_live_stream_and_the_record_show_all_five() {
    five_at_once(&Program::new());
}

#[test]
fn five_at_once_are_on_record_in_postgresql_too() {
    let postgres = Postgres::start();
    let program = Program::new().with("NYX__PHOEBE__URL", postgres.url());
    five_at_once(&program);
    // memories and trait weights are persisted for the next process
    let serving = program.serve();
    let (status, memory) = serving.post(
        "/v1/memories",
        &json!({"text": "My sister Clara lives in Lisbon.", "conversation": "c".repeat(256)}),
    );
    assert!((200..300).contains(&status), "{memory}");
    let (_, change) = serving.post("/admin/traits/eleos", &json!({"weight": -1.5}));
    assert_eq!(change["to"], -1.5, "{change}");
    serving.kill();
    let serving = program.serve();
    assert_eq!(serving.get("/v1/decisions?limit=10").1["data"].as_array().unwrap().len(), 5);
    assert_eq!(serving.get("/v1/memories/search?q=sister&k=1").1["data"][0]["id"], memory["id"]);
    assert_eq!(serving.get("/admin/traits").1["eleos"], -1.5);
}

#[test]
fn what_cannot_be_recorded_is_not_acknowledged() {
    let postgres = Postgres::start();
    let program = Program::new()
        .with("NYX__PHOEBE__URL", postgres.url())
        .with("NYX__PHOEBE__ACQUIRE_TIMEOUT_MS", "1000");
    let serving = program.serve();
    // it ends long before its deadline, so the failure comes from the database
    let mut stream = serving.stream("/v1/chat/completions", &endless("eleos", 300));
    assert!(stream.event().is_some());
    drop(postgres);
    let rest = stream.rest();
    let (_, last) = rest.last().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], "database_error", "{error}");
    assert!(
        rest.iter().all(|(_, data)| data != "[DONE]" && !data.contains("\"nyx\":")),
        "{rest:?}"
    );
    let (status, error) = serving
        .post("/infer", &json!({"prompt": "Hello?", "specialist": "eleos", "max_tokens": 2}));
    assert_eq!((status, &error["error"]["code"]), (503, &json!("database_error")), "{error}");
    let (status, ready) = serving.get("/health/ready");
    assert_eq!((status, &ready["ready"]), (503, &json!(false)), "{ready}");
}

fn five_at_once(program: &Program) {
    let serving = program.serve();
    let live = cells(&serving, "");
    let asked = |name: &str| json!({"prompt": "Tell me about rivers.", "specialist": name, "stream": true, "max_tokens": 24, "seed": 1});
    let answers: Vec<(Instant, Instant, Value)> = std::thread::scope(|scope| {
        let serving = &serving;
        let threads: Vec<_> = FIVE
            .map(|name| {
                scope.spawn(move || {
                    let mut stream = serving.stream("/infer", &asked(name));
                    let (kind, data) = stream.event().unwrap();
                    assert_eq!(kind, "token", "{data}");
                    let first = Instant::now();
                    let mut text = serde_json::from_str::<Value>(&data).unwrap()["text"]
                        .as_str()
                        .unwrap()
                        .to_owned();
                    let mut rest = stream.rest();
                    let last = Instant::now();
                    assert_eq!(rest.pop(), Some((String::new(), "[DONE]".into())));
                    let (kind, data) = rest.pop().unwrap();
                    assert_eq!(kind, "decision");
                    let decision: Value = serde_json::from_str(&data).unwrap();
                    for (kind, data) in rest {
                        assert_eq!(kind, "token");
                        text +=
                            serde_json::from_str::<Value>(&data).unwrap()["text"].as_str().unwrap();
                    }
                    assert_eq!(
                        (&decision["specialist"], &decision["answer"]),
                        (&json!(name), &json!(text))
                    );
                    (first, last, decision)
                })
            })
            .into();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // they ran concurrently: each one streamed while another did
    for (index, (first, last, _)) in answers.iter().enumerate() {
        assert!(
            answers
                .iter()
                .enumerate()
                .any(|(other, (begun, ended, _))| other != index && begun < last && first < ended)
        );
    }
    let ids: BTreeSet<&str> =
        answers.iter().map(|(.., decision)| decision["decision_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 5);

    let events = until_recorded(&live, 5);
    let event_ids: Vec<u64> = events.iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert!(event_ids.is_sorted_by(|a, b| a < b), "{event_ids:?}");
    for id in &ids {
        let steps: Vec<&str> = events
            .iter()
            .filter(|event| event["decision"] == **id)
            .map(|event| event["event"].as_str().unwrap())
            .collect();
        let place = |step: &str| {
            steps
                .iter()
                .position(|reply| *reply == step)
                .unwrap_or_else(|| panic!("no {step} in {steps:?}"))
        };
        let order = ["asked", "decided", "first_token", "answered", "recorded"].map(place);
        assert!(order.is_sorted(), "{steps:?}");
    }

    let (_, record) = serving.get("/v1/decisions?limit=10");
    let kept: BTreeSet<&str> = record["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|decision| decision["id"].as_str().unwrap())
        .collect();
    assert_eq!(kept, ids);
    let (_, moira) = serving.get("/v1/decisions?specialist=moira");
    assert_eq!(moira["data"].as_array().unwrap().len(), 1);

    // a reconnecting client gets the missed events once; a filtering client gets only its
    // specialist's
    let resumed = cells(&serving, &format!("?after={}", event_ids[3]));
    let missed: Vec<u64> =
        until_recorded(&resumed, 5).iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(
        missed,
        event_ids[4..=event_ids.iter().rposition(|id| missed.last() == Some(id)).unwrap()]
    );
    let filtered = until_recorded(
        &cells(&serving, &format!("?specialist=moira&after={}", event_ids[0] - 1)),
        1,
    );
    assert!(filtered.iter().all(|event| event["specialist"] == "moira"), "{filtered:?}");

    // a close frame for a connected client
    assert!(serving.interrupt().status.success());
    let closed = std::iter::from_fn(|| live.recv_timeout(PATIENCE).ok())
        .find(|event| event.get("closed").is_some());
    assert_eq!(closed, Some(json!({ "closed": 1001 })));
}

#[test]
fn a_client_that_is_killed_frees_its_slot() {
    let serving = Program::new().with("NYX__REQUESTS__MAX_IN_FLIGHT", "1").serve();
    let mut stream = serving.stream("/v1/chat/completions", &endless("eleos", 7000));
    assert!(stream.event().unwrap().1.contains("chat.completion.chunk"));
    // the first tokens are sent while their step still runs
    until("it runs", || {
        let busy = serving.get("/admin/actors/worker-cpu").1;
        busy["in_flight"] == 1 && busy["queue_depth"] == 0
    });
    let short = json!({"prompt": "Hello?", "specialist": "base", "max_tokens": 2});
    let refused = serving.send("POST", "/infer", &[JSON], short.to_string().as_bytes());
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    assert_eq!(refused.json().1["error"]["code"], "overloaded");
    drop(stream);
    until("the slot is free again", || serving.post("/infer", &short).0 == 200);
    let (_, record) = serving.get("/v1/decisions?specialist=eleos");
    assert_eq!(record["data"][0]["status"], "cancelled", "{record}");
    // a disconnect is detected for an answer that does not stream, too
    let mut whole = endless("moira", 7000);
    whole["stream"] = json!(false);
    let waiting = serving.begin("/v1/chat/completions", &whole);
    until("it runs", || serving.get("/admin/actors/worker-cpu").1["in_flight"] == 1);
    drop(waiting);
    until("the slot is free again", || serving.post("/infer", &short).0 == 200);
    assert_eq!(serving.get("/v1/decisions?specialist=moira").1["data"][0]["status"], "cancelled");
    let (_, worker) = serving.get("/admin/actors/worker-cpu");
    assert_eq!((&worker["in_flight"], &worker["queue_depth"]), (&json!(0), &json!(0)), "{worker}");
}

#[test]
fn admin_answers_while_the_device_is_busy_and_restarts_an_actor() {
    let serving = Program::new().serve();
    let mut busy: Vec<_> =
        (0..3).map(|_| serving.stream("/v1/chat/completions", &endless("base", 4000))).collect();
    busy.iter_mut().for_each(|stream| assert!(stream.event().is_some()));
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let begun = Instant::now();
            let (status, actors) = serving.get("/admin/actors");
            assert_eq!((status, actors["data"].as_array().unwrap().len()), (200, 13), "{actors}");
            begun.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[7] < Duration::from_millis(100), "median of {times:?}");
    let (_, worker) = serving.get("/admin/actors/worker-cpu");
    assert_eq!(
        (&worker["device"], &worker["state"], &worker["in_flight"]),
        (&json!("cpu"), &json!("running"), &json!(3)),
        "{worker}"
    );
    drop(busy);

    let uptime =
        |name: &str| serving.get(&format!("/admin/actors/{name}")).1["uptime_ms"].as_u64().unwrap();
    for name in ["moira", "worker-cpu", "orchestrator", "memory-keeper", "phoebe"] {
        until("it has lived a while", || uptime(name) > 200);
        let begun = Instant::now();
        assert_eq!(
            serving.send("POST", &format!("/admin/actors/{name}/restart"), &[], b"").status,
            202
        );
        until("a new instance", || u128::from(uptime(name)) < begun.elapsed().as_millis());
        until("it runs", || serving.get(&format!("/admin/actors/{name}")).1["state"] == "running");
    }
    let (status, answered) = serving
        .post("/infer", &json!({"prompt": "Hello?", "specialist": "moira", "max_tokens": 2}));
    assert_eq!(status, 200, "{answered}");
    let (status, unknown) = serving.get("/admin/actors/zeus");
    assert!(
        status == 404 && unknown["error"]["message"].as_str().unwrap().contains("worker-cpu"),
        "{unknown}"
    );
    assert_eq!(serving.send("POST", "/admin/actors/zeus/restart", &[], b"").status, 404);
}

#[test]
fn trait_weights_move_the_choice_and_survive_a_restart() {
    let program = Program::new();
    let serving = program.serve();
    let (status, change) =
        serving.post("/admin/traits/kairos", &json!({"weight": 5.0, "reason": "a test"}));
    assert_eq!(
        (status, &change["from"], &change["to"]),
        (200, &json!(0.0), &json!(5.0)),
        "{change}"
    );
    let (_, chosen) = serving.post("/infer", &json!({"prompt": "Hello?", "max_tokens": 2}));
    assert_eq!(chosen["decision"]["trait_weights"]["kairos"], 5.0);
    assert!(chosen["decision"]["propensities"]["kairos"].as_f64().unwrap() > 0.9, "{chosen}");
    for (path, body, status, param) in [
        ("/admin/traits/zeus", json!({"weight": 1}), 404, "specialist"),
        ("/admin/traits/kairos", json!({"weight": 1e9}), 400, "weight"),
        ("/admin/traits/kairos", json!({"weight": "high"}), 400, "weight"),
        ("/admin/traits/kairos", json!({}), 400, "weight"),
    ] {
        let (found, error) = serving.post(path, &body);
        assert_eq!((found, &error["error"]["param"]), (status, &json!(param)), "{error}");
    }
    serving.kill();
    assert_eq!(program.serve().get("/admin/traits").1["kairos"], 5.0);
}

#[test]
fn health_and_metrics_tell_how_it_goes() {
    let serving = Program::new().serve();
    assert_eq!(serving.get("/health/live"), (200, json!({"status": "live"})));
    let (status, ready) = serving.get("/health/ready");
    assert_eq!(
        (status, &ready["ready"], &ready["parts"]["database"]),
        (200, &json!(true), &json!("ok")),
        "{ready}"
    );
    let (status, _) = serving
        .post("/infer", &json!({"prompt": "Hello?", "specialist": "moira", "max_tokens": 4}));
    assert_eq!(status, 200);
    let text = serving.send("GET", "/metrics", &[], b"").body;
    let labels = |kind: &str| format!("specialist=\"moira\",adapter=\"none\",kind=\"{kind}\"");
    for sample in [
        format!("vllm_latency_seconds_count{{{}}} 1", labels("total")),
        format!("vllm_latency_seconds_bucket{{le=\"+Inf\",{}}} 1", labels("decode")),
        format!("vllm_token_count_total{{{}}}", labels("prompt")),
        format!("vllm_token_count_total{{{}}}", labels("completion")),
        "nyx_decisions_total{specialist=\"moira\",status=\"answered\"} 1".into(),
        "nyx_time_to_first_token_seconds_count{actor=\"moira\"} 1".into(),
        "nyx_time_between_tokens_seconds_count".into(),
        "nyx_running_sequences{actor=\"worker-cpu\"}".into(),
        "nyx_queued{actor=\"worker-cpu\"}".into(),
        "nyx_kv_tokens{actor=\"worker-cpu\"}".into(),
        "nyx_kv_cache_bytes{actor=\"worker-cpu\"}".into(),
        "nyx_actor_up{actor=\"phoebe\"} 1".into(),
        "method=\"POST\",route=\"/infer\",status=\"200\"".into(),
    ] {
        assert!(text.contains(&sample), "no {sample} in {text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn keys_are_asked_for_where_they_are_set() {
    let serving = Program::new()
        .with("NYX__HTTP__API_KEYS", "one,two")
        .with("NYX__HTTP__ADMIN_KEY", "boss")
        .serve();
    for (path, key, status) in [
        ("/v1/models", None, 401),
        ("/v1/models", Some("three"), 401),
        ("/v1/models", Some("two"), 200),
        ("/admin/actors", Some("two"), 401),
        ("/%61dmin/actors", Some("two"), 401),
        ("/admin/actors", Some("boss"), 200),
        ("/v1/cells", None, 401),
        ("/health/live", None, 200),
        ("/openapi.json", None, 200),
    ] {
        let header = key.map(|key| format!("Authorization: Bearer {key}"));
        let reply =
            serving.send("GET", path, &header.iter().map(String::as_str).collect::<Vec<_>>(), b"");
        assert_eq!(reply.status, status, "{path} with {key:?}: {reply:?}");
        if status == 401 {
            assert!(reply.head.contains("www-authenticate: bearer"));
            assert_eq!(reply.json().1["error"]["type"], "authentication_error");
        }
    }
    // without keys, a page of another origin in a local browser is rejected
    let open = Program::new().serve();
    let foreign = open.send("GET", "/v1/models", &["Origin: https://evil.example"], b"");
    assert_eq!(
        (foreign.status, foreign.body.contains("foreign_origin")),
        (403, true),
        "{foreign:?}"
    );
}

#[test]
fn what_cannot_be_answered_is_refused_by_name() {
    let serving = Program::new().with("NYX__HTTP__MAX_BODY_BYTES", "200000").serve();
    let long = "word ".repeat(20_000);
    let cases: &[(&str, &[u8], u16, &str, &str)] = &[
        ("/infer", b"", 400, "null", "empty"),
        ("/infer", b"{", 400, "null", "JSON"),
        ("/infer", b"{\"prompt\": \"\xff\"}", 400, "null", "UTF-8"),
        ("/infer", br#"{"prompt": ""}"#, 400, "prompt", "expected"),
        ("/infer", br#"{"prompt": 7}"#, 400, "prompt", "integer `7`"),
        ("/infer", br#"{"prompt": "a\u0000b"}"#, 400, "messages[0].content", "NUL character at byte 1"),
        ("/infer", br#"{"prompt": "a", "stop": "b\u0000"}"#, 400, "stop", "NUL"),
        ("/v1/memories", br#"{"text": "a", "speaker": "\u0000"}"#, 400, "speaker", "NUL"),
        ("/infer", br#"{"prompt": "a", "specialist": "zeus"}"#, 404, "specialist", "eleos, nyx"),
        ("/infer", br#"{"prompt": "a", "choices": ["one"]}"#, 400, "choices", "2 to 64"),
        ("/infer", br#"{"prompt": "a", "choices": ["b", "b"]}"#, 400, "choices", "different"),
        ("/infer", br#"{"prompt": "a", "max_tokens": 0}"#, 400, "max_tokens", "0"),
        ("/infer", br#"{"prompt": "a", "temperature": -1}"#, 400, "temperature", "-1"),
        ("/infer", br#"{"prompt": "a", "deadline_ms": 0}"#, 400, "deadline_ms", "600000"),
        ("/v1/chat/completions", br#"{"messages": [{"role": "user", "content": "a"}]}"#, 400, "model", "missing"),
        (
            "/v1/chat/completions",
            br#"{"model": "gpt-4o", "messages": [{"role": "user", "content": "a"}]}"#,
            404,
            "model",
            "nyx/eleos, nyx/nyx",
        ),
        ("/v1/chat/completions", br#"{"model": "nyx", "messages": []}"#, 400, "messages", "at least one"),
        ("/v1/chat/completions", br#"{"model": "nyx", "messages": [{"role": "king", "content": "a"}]}"#, 400, "messages[0].role", "king"),
        (
            "/v1/chat/completions",
            br#"{"model": "nyx/base", "messages": [{"role": "user", "content": "a"}], "top_p": 7}"#,
            400,
            "top_p",
            "7",
        ),
        (
            "/v1/chat/completions",
            br#"{"model": "nyx/base", "messages": [{"role": "user", "content": "a"}], "logit_bias": {"99999": 1}}"#,
            400,
            "logit_bias",
            "99999",
        ),
        ("/v1/embeddings", br#"{"model": "ada", "input": "a"}"#, 404, "model", "all-minilm-l6-v2"),
        ("/v1/memories", br#"{"text": " "}"#, 400, "text", "empty"),
        ("/v1/memories", br#"{"text": "a", "when": "soon"}"#, 400, "when", "soon"),
    ];
    for (path, body, status, param, says) in cases {
        let (found, error) = serving.send("POST", path, &[JSON], body).json();
        let shown = String::from_utf8_lossy(body);
        assert_eq!(found, *status, "{path} {shown}: {error}");
        let named = error["error"]["param"].as_str().unwrap_or("null");
        assert_eq!(named, *param, "{path} {shown}: {error}");
        assert!(
            error["error"]["message"].as_str().unwrap().contains(says),
            "{path} {shown}: {error}"
        );
    }
    let (status, error) = serving.post("/infer", &json!({"prompt": long, "specialist": "base"}));
    assert_eq!(
        (status, &error["error"]["code"]),
        (400, &json!("context_length_exceeded")),
        "{error}"
    );
    let (status, error) = serving.post("/infer", &json!({"prompt": long}));
    assert_eq!(
        (status, &error["error"]["code"]),
        (400, &json!("context_length_exceeded")),
        "{error}"
    );
    // a very long run of control tokens, and a concurrent request
    let controls = "<|im_end|>".repeat(19_000);
    let begun = Instant::now();
    let (status, error) =
        serving.post("/infer", &json!({"prompt": controls, "specialist": "base"}));
    assert_eq!(
        (status, &error["error"]["code"]),
        (400, &json!("context_length_exceeded")),
        "{error}"
    );
    assert!(begun.elapsed() < Duration::from_secs(10));
    for huge in [250_000, 1_000_000] {
        let (status, error) = serving.post("/infer", &json!({"prompt": "a".repeat(huge)}));
        assert_eq!(
            (status, &error["error"]["code"]),
            (413, &json!("request_too_large")),
            "{error}"
        );
    }
    for (method, path, status, says) in [
        ("GET", "/infer", 405, "POST only"),
        ("POST", "/v1/models", 405, "GET only"),
        ("GET", "/nowhere", 404, "/nowhere"),
        ("GET", "/v1/models/zeus", 404, "nyx/moira"),
        ("GET", "/v1/decisions/17", 400, "UUID"),
        ("GET", "/v1/decisions/01890a5d-ac96-774b-bcce-b302099a8057", 404, "01890a5d"),
        ("GET", "/v1/decisions?limit=0", 400, "1 to 1000"),
        ("GET", "/v1/decisions?colour=red", 400, "colour"),
        ("GET", "/v1/memories/search", 400, "q"),
        ("GET", "/v1/memories/search?q=a&k=101", 400, "1 to 100"),
        ("GET", "/v1/memories/search?q=%20", 400, "empty"),
        ("GET", "/v1/memories/search?q=a&after=soon", 400, "after is \"soon\""),
        ("GET", "/v1/memories", 405, "POST, DELETE only"),
        ("DELETE", "/v1/memories", 400, "all=true"),
        ("DELETE", "/v1/memories?colour=red", 400, "colour"),
        ("DELETE", "/v1/memories?all=true&before=2026-11-24", 400, "one or the other"),
        ("DELETE", "/v1/memories/17", 400, "UUID"),
        ("DELETE", "/v1/memories/01890a5d-ac96-774b-bcce-b302099a8057", 404, "01890a5d"),
        ("GET", "/v1/cells", 426, "WebSocket"),
        ("GET", "/v1/cells?after=x", 400, "after"),
        ("GET", "/v1/cells?specialist=zeus", 404, "eleos, nyx"),
    ] {
        let (found, error) = serving.send(method, path, &[], b"").json();
        assert_eq!(found, status, "{method} {path}: {error}");
        assert!(
            error["error"]["message"].as_str().unwrap().contains(says),
            "{method} {path}: {error}"
        );
    }
    assert_eq!(serving.send("POST", "/infer", &[], b"{}").status, 415);
    // and the server still responds
    assert_eq!(
        serving
            .post("/infer", &json!({"prompt": "Hello?", "specialist": "base", "max_tokens": 1}))
            .0,
        200
    );
}

#[test]
fn a_deadline_cuts_the_answer_and_says_so() {
    let serving = Program::new().serve();
    let mut body = endless("base", 7000);
    body["stream"] = json!(false);
    body["deadline_ms"] = json!(3000);
    let begun = Instant::now();
    let (status, cut) = serving.post("/v1/chat/completions", &body);
    let choice = &cut["choices"][0];
    assert_eq!(
        (status, &cut["nyx"]["status"], &choice["finish_reason"]),
        (200, &json!("partial"), &json!("length")),
        "{cut}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(10)
            && !choice["message"]["content"].as_str().unwrap().is_empty()
    );
    // scoring choices ends at the deadline too
    let long = "word ".repeat(6500);
    let choices: Vec<String> = (0..64).map(|n| format!("so it is said of old {n}")).collect();
    let weighed =
        json!({"prompt": long, "specialist": "base", "choices": choices, "deadline_ms": 250});
    let begun = Instant::now();
    let (status, late) = serving.post("/infer", &weighed);
    assert_eq!((status, &late["error"]["code"]), (504, &json!("deadline_exceeded")), "{late}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    until("the device is free again", || {
        serving.get("/admin/actors/worker-cpu").1["in_flight"] == 0
    });
    let (status, late) =
        serving.post("/infer", &json!({"prompt": "Tell a very long story.", "deadline_ms": 1}));
    assert_eq!((status, &late["error"]["code"]), (504, &json!("deadline_exceeded")), "{late}");
}
