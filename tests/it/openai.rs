//! The OpenAI endpoints on the real binary and the real model.

use serde_json::{Value, json};

use crate::program::{Program, Serving};

fn chat(serving: &Serving, more: Value) -> (u16, Value) {
    let mut body = json!({"model": "nyx/base", "messages": [{"role": "user", "content": "What is the capital of France?"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serving.post("/v1/chat/completions", &body)
}

#[test]
fn chat_completions_answer_as_openai_and_tell_of_the_decision() {
    let serving = Program::new().serve();
    let (status, one) =
        chat(&serving, json!({"model": "nyx", "max_completion_tokens": 8, "seed": 7}));
    assert_eq!(status, 200, "{one}");
    assert_eq!((&one["object"], &one["model"]), (&json!("chat.completion"), &json!("nyx")));
    assert_eq!(one["nyx"]["scores"].as_object().unwrap().len(), 6);
    let id = one["nyx"]["decision_id"].as_str().unwrap();
    assert_eq!(one["id"], format!("chatcmpl-{id}"));
    assert_eq!(
        serving.get(&format!("/v1/decisions/{id}")).1["answer"],
        one["choices"][0]["message"]["content"]
    );
    // the same seed gives the same specialist; answers may depend on the time and on the record,
    // except Eleos'
    let again = chat(&serving, json!({"model": "nyx", "max_completion_tokens": 8, "seed": 7})).1;
    assert_eq!(again["nyx"]["specialist"], one["nyx"]["specialist"]);
    let eleos =
        || chat(&serving, json!({"model": "nyx/eleos", "max_completion_tokens": 8, "seed": 7})).1;
    assert_eq!(eleos()["choices"], eleos()["choices"]);

    let (_, two) = chat(&serving, json!({"n": 2, "temperature": 1.5, "max_tokens": 8, "seed": 3}));
    let texts: Vec<&Value> = two["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| &choice["message"]["content"])
        .collect();
    assert!(texts.len() == 2 && texts[0] != texts[1], "{two}");
    assert_eq!(two["nyx"]["specialist"], "base");

    let (_, reply) = chat(
        &serving,
        json!({"logprobs": true, "top_logprobs": 2, "temperature": 0, "max_tokens": 4}),
    );
    let entries = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let text: String = entries.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(
        (entries.len(), reply["choices"][0]["message"]["content"].as_str().unwrap()),
        (4, text.as_str()),
        "{reply}"
    );
    for entry in entries {
        assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(
            (&entry["top_logprobs"][0]["token"], &entry["top_logprobs"][0]["logprob"]),
            (&entry["token"], &entry["logprob"])
        );
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
    }
    assert_eq!(reply["choices"][0]["finish_reason"], "length");

    let (_, whole) = chat(&serving, json!({"temperature": 0, "max_tokens": 24}));
    let answer = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let stop = answer.split_whitespace().nth(2).unwrap();
    let (_, stopped) = chat(&serving, json!({"temperature": 0, "max_tokens": 24, "stop": [stop]}));
    assert_eq!(
        stopped["choices"][0]["message"]["content"].as_str().unwrap(),
        answer.split(stop).next().unwrap()
    );
    assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
}

#[test]
fn chat_completions_stream_chunks_usage_and_done() {
    let serving = Program::new().serve();
    let body = json!({"model": "nyx/moira", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Will it rain?"}]}],
        "stream": true, "stream_options": {"include_usage": true}, "max_tokens": 12, "temperature": 0});
    let mut events: Vec<String> = serving
        .stream("/v1/chat/completions", &body)
        .rest()
        .into_iter()
        .map(|(_, data)| data)
        .collect();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> =
        events.iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert!(
        usage["usage"]["completion_tokens"].as_u64().unwrap() <= 12
            && usage["usage"]["prompt_tokens"].as_u64().unwrap() > 0
    );
    let (last, others) = chunks.split_last().unwrap();
    assert!(
        last["choices"][0]["finish_reason"].is_string() && last["nyx"]["specialist"] == "moira",
        "{last}"
    );
    assert!(others.iter().all(|chunk| chunk.get("nyx").is_none()));
    assert_eq!(others[0]["choices"][0]["delta"]["role"], "assistant");
    let streamed: String = others
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    let whole = serving.post("/v1/chat/completions", &{
        let mut body = body.clone();
        body["stream"] = json!(false);
        body.as_object_mut().unwrap().remove("stream_options");
        body
    });
    assert_eq!(
        whole.1["choices"][0]["message"]["content"], streamed,
        "streamed or not, the answer is the same"
    );
}

#[test]
fn models_and_embeddings_are_as_openai_has_them() {
    let serving = Program::new().serve();
    let (_, models) = serving.get("/v1/models");
    let names: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    let expected = [
        "nyx",
        "nyx/base",
        "nyx/mnemosyne",
        "nyx/moira",
        "nyx/aletheia",
        "nyx/kairos",
        "nyx/eleos",
        "nyx/nyx",
        "all-minilm-l6-v2",
    ];
    assert_eq!(names, expected);
    assert_eq!(serving.get("/v1/models/nyx/moira").1["id"], "nyx/moira");

    let embed = |more: Value| {
        let mut body = json!({"model": "all-minilm-l6-v2"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = serving.post("/v1/embeddings", &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let vectors = |answer: &Value| -> Vec<Vec<f32>> {
        let data = answer["data"].as_array().unwrap();
        data.iter().map(|item| serde_json::from_value(item["embedding"].clone()).unwrap()).collect()
    };
    let floats =
        embed(json!({"input": ["a cat sat", "a kitten was sitting", "interest rates rose"]}));
    let found = vectors(&floats);
    assert_eq!((found.len(), found[0].len()), (3, 384));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    assert!((dot(&found[0], &found[0]) - 1.0).abs() < 1e-4);
    assert!(dot(&found[0], &found[1]) > dot(&found[0], &found[2]) + 0.3);
    assert!(floats["usage"]["total_tokens"].as_u64().unwrap() >= 9);

    use base64::Engine as _;
    let encoded = embed(json!({"input": "a cat sat", "encoding_format": "base64"}));
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    let decoded: Vec<f32> =
        bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert!(dot(&decoded, &found[0]) > 0.9999);
}

#[test]
fn the_description_is_openapi_3_and_names_every_schema_it_uses() {
    let serving = Program::new().serve();
    let (status, description) = serving.get("/openapi.json");
    assert_eq!(status, 200);
    assert!(description["openapi"].as_str().unwrap().starts_with("3."));
    let text = description.to_string();
    let schemas = description["components"]["schemas"].as_object().unwrap();
    for used in
        text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap())
    {
        assert!(schemas.contains_key(used), "{used} is used and not described");
    }
    assert!(schemas.contains_key("InferResponse") && schemas.contains_key("ErrorBody"));
}
