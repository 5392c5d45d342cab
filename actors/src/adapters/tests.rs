//! Two processes on one database, without a device between them.

use std::collections::BTreeSet;
use std::path::Path;

use nyx_domain::{AdapterChoice, Arm, CellStep, ErrorClass};
use nyx_engine::ModelConfig;
use nyx_engine::lora::{CONFIG_FILE, WEIGHTS_FILE};
use nyx_engine::model::Rope;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::active::*;
use super::*;
use crate::cells::CellStream;
use crate::observe::Registry;
use crate::phoebe::{PhoebeOptions, PhoebeStore};
use crate::testing::postgres::Postgres;

const BASE: &str = "base";

fn base() -> AdapterBase {
    let rope = Rope { theta: 10_000.0, interleaved: false, scaling: None };
    let config = ModelConfig {
        hidden: 32,
        intermediate: 64,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        vocabulary: 64,
        context_length: 64,
        norm_eps: 1e-5,
        rope,
        tied: true,
    };
    AdapterBase { sha256: BASE.into(), config }
}

/// A PEFT folder beside the first layer's `q_proj` of a model this wide, its numbers by `seed`;
/// `rows` of B, as many where all is well.
pub(crate) fn peft(folder: &Path, seed: u32, rows: usize, hidden: usize) {
    std::fs::create_dir_all(folder).unwrap();
    // keys in no order, as PEFT writes them
    std::fs::write(
        folder.join(CONFIG_FILE),
        r#"{ "r": 2, "peft_type": "LORA", "lora_alpha": 4, "bias": "none" }"#,
    )
    .unwrap();
    let (mut header, mut data, mut state) = (serde_json::Map::new(), Vec::new(), seed);
    for (matrix, shape) in [("lora_A", [2, hidden]), ("lora_B", [rows, 2])] {
        let begin = data.len();
        for _ in 0..shape[0] * shape[1] {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            data.extend(((state >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes());
        }
        let name = format!("base_model.model.model.layers.0.self_attn.q_proj.{matrix}.weight");
        header.insert(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    std::fs::write(
        folder.join(WEIGHTS_FILE),
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat(),
    )
    .unwrap();
}

struct World {
    dir: TempDir,
    store: PhoebeStore,
}

impl World {
    async fn new() -> Self {
        Self::on(None).await
    }

    async fn on(url: Option<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = PhoebeStore::connect(
            &PhoebeOptions { url: url.map(Into::into), ..PhoebeOptions::default() },
            dir.path(),
        )
        .await
        .unwrap();
        Self { dir, store }
    }

    fn library(&self, options: &AdapterOptions) -> AdapterLibrary {
        AdapterLibrary::new(self.store.clone(), options, self.dir.path())
    }

    /// A process with this folder of adapters.
    fn process(&self, options: &AdapterOptions) -> Adapters {
        Adapters::new(AdapterParts {
            library: self.library(options),
            loaded: LoadedAdapters::default(),
            base: base(),
            cells: CellStream::default(),
            registry: Registry::default(),
            specialists: vec!["eleos".into(), "kairos".into()],
        })
    }

    fn folder(&self, seed: u32) -> std::path::PathBuf {
        let folder = self.dir.path().join(format!("peft-{seed}"));
        peft(&folder, seed, 32, 32);
        folder
    }
}

fn steps(process: &Adapters) -> Vec<CellStep> {
    process.0.cells.subscribe(Some(0)).backlog.iter().map(|event| event.step.clone()).collect()
}

/// Changes the last byte of a file of weights.
fn damage(folder: &Path) {
    let path = folder.join(WEIGHTS_FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[actix::test]
async fn an_adapter_is_named_by_what_it_is_and_goes_in_and_out_byte_for_byte() {
    let world = World::new().await;
    let process = world.process(&AdapterOptions::default());
    let folder = world.folder(1);
    let id = process.import("eleos", &folder, Some("run".into())).await.unwrap();
    assert_eq!(process.import("eleos", &folder, None).await.unwrap(), id);
    // the order of keys and the space between them say nothing
    let respelt = world.folder(1);
    std::fs::write(
        respelt.join(CONFIG_FILE),
        r#"{"bias":"none","lora_alpha":4,"peft_type":"LORA","r":2}"#,
    )
    .unwrap();
    assert_eq!(nyx_engine::lora::adapter_id(&respelt, BASE).unwrap(), id);
    let record = process.library().show(&id).await.unwrap();
    assert_eq!(
        (record.status, record.generation, record.training_run.as_deref()),
        (AdapterStatus::Candidate, 0, Some("run"))
    );
    let other = process.import("kairos", &world.folder(1), None).await.unwrap_err();
    assert!(
        other.class() == ErrorClass::Conflict && other.to_string().contains("belongs to eleos"),
        "{other}"
    );
    let out = world.dir.path().join("out");
    process.library().export(&id, &out).await.unwrap();
    let fresh = world.folder(1);
    for name in [CONFIG_FILE, WEIGHTS_FILE] {
        assert_eq!(
            std::fs::read(out.join(name)).unwrap(),
            std::fs::read(fresh.join(name)).unwrap()
        );
    }
    assert_eq!(
        process.library().export(&id, &out).await.unwrap_err().class(),
        ErrorClass::Conflict
    );
    peft(&world.dir.path().join("wrong"), 1, 31, 32);
    let wrong = process
        .import("eleos", &world.dir.path().join("wrong"), None)
        .await
        .unwrap_err()
        .to_string();
    assert!(wrong.contains("lora_B") && wrong.contains("[31, 2]"), "{wrong}");
    assert!(
        process.import("zeus", &folder, None).await.unwrap_err().to_string().contains("kairos")
    );
    assert_eq!(process.library().list().await.unwrap().len(), 1);
}

#[actix::test]
async fn adapters_are_shared_over_postgresql_as_over_sqlite() {
    let server = Postgres::start();
    shares_generations(World::on(Some(server.url())).await).await;
    let server = Postgres::start();
    shares_canaries(World::on(Some(server.url())).await).await;
}

#[actix::test]
async fn generations_are_shared_and_a_request_keeps_its_own() {
    shares_generations(World::new().await).await;
}

async fn shares_generations(world: World) {
    let (one, two) =
        (world.process(&AdapterOptions::default()), world.process(&AdapterOptions::default()));
    let a = one.import("eleos", &world.folder(1), None).await.unwrap();
    let b = one.import("eleos", &world.folder(2), None).await.unwrap();
    assert_eq!(one.generation("eleos"), (0, None));
    one.promote(&a, "first").await.unwrap();
    let active_adapter = one.active_adapter("eleos", None, None, "").await.unwrap();
    one.promote(&b, "second").await.unwrap();
    let spoke = active_adapter.version.clone().unwrap();
    assert_eq!((spoke.generation, &spoke.id), (1, &a));
    // what a request still speaks through stays on the devices, and goes with it
    assert_eq!(one.0.loaded.ids().len(), 2);
    drop(active_adapter);
    assert_eq!(one.0.loaded.ids(), std::slice::from_ref(&b));
    two.sync().await.unwrap();
    assert_eq!(two.generation("eleos"), (2, Some(b.clone())));
    // both fall back at once: one generation comes of it
    let (first, second) = tokio::join!(
        one.fall_back("eleos", "rewards fell"),
        two.fall_back("eleos", "rewards fell")
    );
    assert_eq!(first.unwrap().generation, second.unwrap().generation);
    assert_eq!(one.generation("eleos"), two.generation("eleos"));
    assert_eq!(one.generation("eleos"), (3, Some(a.clone())));
    two.rollback("eleos", "to the base").await.unwrap();
    assert_eq!(two.generation("eleos"), (4, None));
    assert_eq!(two.rollback("eleos", "further").await.unwrap_err().class(), ErrorClass::Conflict);
    let made = two.library().generations("eleos").await.unwrap();
    assert_eq!(
        made.iter().map(|made| made.adapter.as_deref()).collect::<Vec<_>>(),
        [Some(&*a), Some(&*b), Some(&*a), None]
    );
    // a third process finds what is live
    let three = world.process(&AdapterOptions::default());
    three.sync().await.unwrap();
    assert_eq!(three.generation("eleos"), (4, None));
    // a chosen one is asked whatever is live, and is no generation
    let chosen =
        three.active_adapter("eleos", Some(&AdapterChoice::Id(b.clone())), None, "").await.unwrap();
    assert_eq!(
        chosen.version.as_ref().map(|version| (version.generation, &version.id)),
        Some((0, &b))
    );
}

#[actix::test]
async fn a_changed_file_is_refused_and_the_last_good_generation_serves() {
    let world = World::new().await;
    let one = world.process(&AdapterOptions::default());
    let mut ids = Vec::new();
    for seed in 1..4 {
        ids.push(one.import("eleos", &world.folder(seed), None).await.unwrap());
        one.promote(&ids[ids.len() - 1], "").await.unwrap();
    }
    // the one before is damaged as well: the last good one is further back
    damage(&one.library().folder(&ids[1]));
    damage(&one.library().folder(&ids[2]));
    one.check_all().await.unwrap();
    assert_eq!(one.generation("eleos"), (4, Some(ids[0].clone())));
    let statuses: Vec<_> =
        one.library().list().await.unwrap().into_iter().map(|adapter| adapter.status).collect();
    assert_eq!(statuses, [AdapterStatus::Live, AdapterStatus::Bad, AdapterStatus::Bad]);
    let reported = steps(&one);
    assert!(
        matches!(&reported[reported.len() - 1], CellStep::AdapterRolledBack { generation: 4, reason, .. } if reason.contains("checksum")),
        "{reported:?}"
    );
    assert_eq!(
        reported.iter().filter(|step| matches!(step, CellStep::AdapterBad { .. })).count(),
        2
    );
    assert_eq!(one.promote(&ids[2], "").await.unwrap_err().class(), ErrorClass::Conflict);
    // the right files make it good again
    one.import("eleos", &world.folder(3), None).await.unwrap();
    one.promote(&ids[2], "").await.unwrap();
    damage(&one.library().folder(&ids[2]));
    // a process that starts now does not load it
    let two = world.process(&AdapterOptions::default());
    two.sync().await.unwrap();
    assert_eq!(two.generation("eleos"), (6, Some(ids[0].clone())));
}

#[actix::test]
async fn a_process_without_the_files_warns_once_and_keeps_its_generation() {
    let world = World::new().await;
    let one = world.process(&AdapterOptions::default());
    let far = world.process(&AdapterOptions {
        dir: Some(world.dir.path().join("elsewhere")),
        ..AdapterOptions::default()
    });
    let id = one.import("eleos", &world.folder(1), None).await.unwrap();
    one.promote(&id, "").await.unwrap();
    far.sync().await.unwrap();
    far.sync().await.unwrap();
    assert_eq!(far.generation("eleos"), (0, None));
    let reported = steps(&far);
    assert!(
        matches!(&reported[..], [CellStep::Failed { message, .. }] if message.contains("elsewhere") && message.contains("adapters.dir")),
        "{reported:?}"
    );
    // it has not changed: nobody falls back from it
    assert_eq!(one.library().show(&id).await.unwrap().status, AdapterStatus::Live);
    far.import("eleos", &world.folder(1), None).await.unwrap();
    far.sync().await.unwrap();
    assert_eq!(far.generation("eleos"), (1, Some(id)));
}

#[actix::test]
async fn retired_adapters_are_pruned_and_rollback_targets_are_kept() {
    let world = World::new().await;
    let options = AdapterOptions { max_mb: 1, ..AdapterOptions::default() };
    let library = world.library(&options);
    // 300 kB each: three fit
    let mut ids = Vec::new();
    let none = BTreeSet::new();
    let keep = async |seed: u32, held: &BTreeSet<String>| {
        let folder = world.folder(seed);
        let mut config = std::fs::read_to_string(folder.join(CONFIG_FILE)).unwrap();
        config.push_str(&" ".repeat(300_000));
        std::fs::write(folder.join(CONFIG_FILE), config).unwrap();
        library.import("eleos", &folder, None, &base(), held).await
    };
    for seed in 1..4 {
        let id = keep(seed, &none).await.unwrap();
        library.promote(&id, "").await.unwrap();
        ids.push(id);
    }
    let is_kept = |id: &String| library.folder(id).exists();
    // retired, but leased
    let held = BTreeSet::from([ids[0].clone()]);
    let full = keep(4, &held).await.unwrap_err();
    assert!(
        full.class() == ErrorClass::Conflict && full.to_string().contains("adapters.max_mb is 1"),
        "{full}"
    );
    let fourth = keep(4, &none).await.unwrap();
    assert_eq!(ids.iter().map(is_kept).collect::<Vec<_>>(), [false, true, true]);
    // live, last good, candidate: none may go
    assert!(keep(5, &none).await.is_err() && is_kept(&fourth));
    library.retire(&fourth).await.unwrap();
    keep(5, &none).await.unwrap();
    assert!(!is_kept(&fourth));
}

#[actix::test]
async fn a_canary_serves_its_share_with_its_propensity_in_every_process() {
    shares_canaries(World::new().await).await;
}

async fn shares_canaries(world: World) {
    let (one, two) =
        (world.process(&AdapterOptions::default()), world.process(&AdapterOptions::default()));
    let a = one.import("eleos", &world.folder(1), None).await.unwrap();
    let b = one.import("eleos", &world.folder(2), None).await.unwrap();
    one.promote(&a, "").await.unwrap();
    assert_eq!(
        one.set_canary("eleos", &b, 1.0).await.unwrap_err().class(),
        ErrorClass::InvalidRequest
    );
    one.set_canary("eleos", &b, 0.25).await.unwrap();
    two.sync().await.unwrap();
    let mut spoke = 0;
    for seed in 0..400 {
        let active_adapter = one.active_adapter("eleos", None, Some(seed), "who?").await.unwrap();
        assert_eq!(
            active_adapter.version,
            two.active_adapter("eleos", None, Some(seed), "who?").await.unwrap().version
        );
        let draw = active_adapter.canary.unwrap();
        let canary = active_adapter.version.as_ref().is_some_and(|version| version.id == b);
        let (arm, propensity) = if canary { (Arm::Canary, 0.25) } else { (Arm::Live, 0.75) };
        assert_eq!((draw.arm, draw.propensity), (arm, propensity));
        assert_eq!(draw.id, Some(active_adapter.version.unwrap().id));
        spoke += usize::from(canary);
    }
    assert!((70..=130).contains(&spoke), "{spoke} of 400");
    assert_eq!(one.library().show(&b).await.unwrap().status, AdapterStatus::Canary);
    one.clear_canary("eleos").await.unwrap();
    two.sync().await.unwrap();
    assert!(two.active_adapter("eleos", None, Some(1), "").await.unwrap().canary.is_none());
    assert_eq!(one.library().show(&b).await.unwrap().status, AdapterStatus::Candidate);
    // promoted while it is tried: it is tried no more
    one.set_canary("eleos", &b, 0.5).await.unwrap();
    one.promote(&b, "").await.unwrap();
    two.sync().await.unwrap();
    for process in [&one, &two] {
        assert!(process.active_adapter("eleos", None, None, "").await.unwrap().canary.is_none());
        assert_eq!(process.generation("eleos"), (2, Some(b.clone())));
    }
}

#[actix::test]
async fn what_a_file_names_is_the_first_generation_and_phoebe_wins_afterwards() {
    let world = World::new().await;
    let named = [("eleos".to_owned(), world.folder(1))];
    let one = world.process(&AdapterOptions::default());
    one.configure(&named).await.unwrap();
    one.sync().await.unwrap();
    let a = AdapterLibrary::id_of(&world.folder(1), BASE).await.unwrap();
    assert_eq!(one.generation("eleos"), (1, Some(a)));
    let b = one.import("eleos", &world.folder(2), None).await.unwrap();
    one.promote(&b, "").await.unwrap();
    let again = world.process(&AdapterOptions::default());
    again.configure(&named).await.unwrap();
    again.sync().await.unwrap();
    assert_eq!(again.generation("eleos"), (2, Some(b)));
    assert!(again.configure(&[("kairos".into(), world.dir.path().join("nowhere"))]).await.is_err());
}
