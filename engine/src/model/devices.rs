//! Tests of the model on candle tensors, run on every available device. Without a GPU, the tests
//! run on the CPU alone and print that CUDA is skipped.

use candle_core::{Device, Tensor};

use super::tests::{largest_difference, tiny};
use super::*;
use crate::comm::SingleRank;
use crate::kv::KvCache;
use crate::model::body::Body;
use crate::model::tensors::TensorShard;
use crate::{AdapterHandle, AdapterPrecision, ModelFiles, Quantisation};

/// Maximum difference of logits from the f32 reference. The order of sums differs between devices,
/// and GPUs store keys and values in f16: f16 alone changes this model's logits by 4e-3, measured
/// on a CPU.
fn tolerance(device: &Device) -> f32 {
    if device.is_cpu() { 1e-4 } else { 1e-2 }
}

/// The CPU, and `cuda:0` if this build and machine support it.
fn devices() -> Vec<Device> {
    let cuda = crate::device::WITH_CUDA.then(|| crate::DeviceSpec::Cuda(0).open());
    if let Some(Err(error)) = &cuda {
        println!("skipped: no CUDA device ({error})");
    }
    std::iter::once(Device::Cpu).chain(cuda.and_then(Result::ok)).collect()
}

/// Loads the model on candle tensors with grouped sequences, as on a GPU, also on a CPU and also if
/// the CPU kernels support the model's shape.
fn on_tensors(files: &ModelFiles, device: &Device) -> Llama {
    let mut model = Llama::load(files, Quantisation::None, device).unwrap();
    let (config, slice) = (files.config(), Slice::new(files.config(), 0, 1).unwrap());
    let mut reader = files.reader().unwrap();
    let mut shard = TensorShard::load(
        &mut reader,
        config,
        Quantisation::None,
        slice,
        Box::new(SingleRank),
        device,
    )
    .unwrap();
    shard.group(true);
    model.kernels = false;
    model.running.get_mut().unwrap().body = Body::Tensors(Box::new(shard));
    model
}

fn logits(
    model: &Llama,
    kv: &mut KvCache,
    tokens: &[u32],
    adapter: Option<AdapterHandle>,
) -> Tensor {
    let mut batch = [Segment { tokens, kv, adapter, logits: LogitRows::All }];
    model.forward(&mut batch).unwrap()
}

/// Greedy decoding after `prompt`: `length` tokens, each with the logits it was chosen from.
fn greedy(model: &Llama, prompt: &[u32], length: usize) -> Vec<(u32, Vec<f32>)> {
    let mut kv = model.new_cache();
    let mut fed = prompt.to_vec();
    (0..length)
        .map(|_| {
            let rows = logits(model, &mut kv, &fed, None);
            let last = rows.narrow(0, fed.len() - 1, 1).unwrap();
            fed = argmax(&last).unwrap();
            (fed[0], last.flatten_all().unwrap().to_vec1().unwrap())
        })
        .collect()
}

#[test]
fn logits_agree_with_transformers_on_every_device() {
    let (folder, expected) = tiny();
    let files = ModelFiles::open(&folder).unwrap();
    for device in devices() {
        let model = on_tensors(&files, &device);
        let in_one_pass = logits(&model, &mut model.new_cache(), &expected.tokens, None);
        let mut kv = model.new_cache();
        let in_chunks: Vec<Tensor> =
            expected.tokens.chunks(5).map(|chunk| logits(&model, &mut kv, chunk, None)).collect();
        for found in [in_one_pass, Tensor::cat(&in_chunks, 0).unwrap()] {
            let difference = largest_difference(&found, &expected.logits["base"]);
            assert!(
                difference < tolerance(&device),
                "{:?}: logits differ by {difference}",
                device.location()
            );
        }
    }
}

#[test]
fn greedy_tokens_agree_with_the_cpu_on_every_device() {
    const LENGTH: usize = 24;
    let (folder, expected) = tiny();
    let files = ModelFiles::open(&folder).unwrap();
    let on_cpu = greedy(&on_tensors(&files, &Device::Cpu), &expected.tokens[..4], LENGTH);
    for device in devices() {
        let found = greedy(&on_tensors(&files, &device), &expected.tokens[..4], LENGTH);
        for (place, ((token, logits), (expected, theirs))) in found.iter().zip(&on_cpu).enumerate()
        {
            let difference =
                logits.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(
                difference < tolerance(&device),
                "{:?}, position {place}: logits differ by {difference}",
                device.location()
            );
            // if two logits differ by less than the tolerance, either token may be chosen, and the
            // texts diverge
            if theirs[*expected as usize] - theirs[*token as usize] >= 2.0 * tolerance(&device) {
                assert_eq!(token, expected, "{:?}, position {place}", device.location());
            }
            if token != expected {
                break;
            }
        }
    }
}

#[test]
fn adapters_agree_with_peft_in_one_batch_on_every_device() {
    let (folder, expected) = tiny();
    let files = ModelFiles::open(&folder).unwrap();
    for device in devices() {
        let model = on_tensors(&files, &device);
        let load = |name: &str| {
            Some(
                model
                    .load_adapter(
                        name,
                        &folder.join(name),
                        &files.info().sha256,
                        AdapterPrecision::File,
                    )
                    .unwrap(),
            )
        };
        let adapters = [("lora", load("lora")), ("base", None), ("rslora", load("rslora"))];
        let mut caches: Vec<KvCache> = adapters.iter().map(|_| model.new_cache()).collect();
        let segments = caches.iter_mut().zip(&adapters);
        let mut batch: Vec<_> = segments
            .map(|(kv, (_, adapter))| Segment {
                tokens: &expected.tokens,
                kv,
                adapter: adapter.clone(),
                logits: LogitRows::All,
            })
            .collect();
        let together = model.forward(&mut batch).unwrap();
        let rows = expected.tokens.len();
        for (index, (name, _)) in adapters.iter().enumerate() {
            let difference = largest_difference(
                &together.narrow(0, index * rows, rows).unwrap(),
                &expected.logits[*name],
            );
            assert!(
                difference < tolerance(&device),
                "{name} on {:?}: logits differ by {difference}",
                device.location()
            );
        }
    }
}

/// The default model's Q4_1 and Q8_0 blocks with the device's quantised products. Only in builds
/// with CUDA: candle's product is slow on CPUs, and the CPU kernels are tested elsewhere.
#[cfg(feature = "cuda")]
#[test]
fn quantised_weights_agree_with_transformers_on_a_cuda_device() {
    use super::tests::{CLOSE, runs};

    let Some(device) = devices().into_iter().find(Device::is_cuda) else { return };
    let model = on_tensors(&ModelFiles::open(&crate::testing::default_model()).unwrap(), &device);
    let (mut places, mut whole, mut single) = (0, 0, 0);
    for run in runs("greedy.json") {
        // teacher-forced with the reference's tokens, so that all positions are comparable
        let tokens: Vec<u32> =
            run.prompt.iter().chain(&run.tokens[..run.tokens.len() - 1]).copied().collect();
        let answer = |rows: &Tensor| {
            argmax(&rows.narrow(0, run.prompt.len() - 1, run.tokens.len()).unwrap()).unwrap()
        };
        let in_one_pass = answer(&logits(&model, &mut model.new_cache(), &tokens, None));
        // candle uses other kernels for up to 8 rows
        let mut kv = model.new_cache();
        let in_chunks: Vec<Tensor> =
            tokens.chunks(7).map(|chunk| logits(&model, &mut kv, chunk, None)).collect();
        let in_chunks = answer(&Tensor::cat(&in_chunks, 0).unwrap());
        for at in (0..run.tokens.len()).filter(|at| run.margins[*at] >= CLOSE) {
            places += 1;
            whole += usize::from(in_one_pass[at] == run.tokens[at]);
            single += usize::from(in_chunks[at] == run.tokens[at]);
        }
    }
    println!("of {places} clear positions, {whole} agree in one pass, {single} in chunks of seven");
    // activations are rounded to int8, which may flip a margin slightly above CLOSE
    assert!(
        places > 200 && whole.min(single) * 100 >= places * 99,
        "{whole} and {single} of {places} clear positions agree"
    );
}

/// Tensor parallelism over two GPUs with NCCL.
#[cfg(feature = "nccl")]
#[test]
fn shards_on_cuda_devices_agree_with_transformers() {
    let gpus = crate::device::cuda_devices().map_or(0, |found| found.len());
    if gpus < 2 {
        println!("skipped: {gpus} CUDA devices, a group needs two");
        return;
    }
    let (folder, expected) = tiny();
    let files = ModelFiles::open(&folder).unwrap();
    let mut ranks = Rank::group(2).into_iter();
    let leader = ranks.next().unwrap();
    std::thread::scope(|scope| {
        let files = &files;
        let follower = scope.spawn(move || {
            Follower::load(
                files,
                Quantisation::None,
                crate::DeviceSpec::Cuda(1),
                ranks.next().unwrap(),
            )
            .and_then(Follower::serve)
        });
        let model = Llama::load_shard(
            files,
            Quantisation::None,
            crate::DeviceSpec::Cuda(0),
            leader,
            usize::MAX,
        )
        .unwrap();
        let adapter = model
            .load_adapter(
                "lora",
                &folder.join("lora"),
                &files.info().sha256,
                AdapterPrecision::File,
            )
            .unwrap();
        for (name, adapter) in [("base", None), ("lora", Some(adapter))] {
            let found = logits(&model, &mut model.new_cache(), &expected.tokens, adapter);
            let difference = largest_difference(&found, &expected.logits[name]);
            assert!(
                difference < tolerance(model.device()),
                "{name}: logits differ by {difference}"
            );
        }
        drop(model);
        follower.join().unwrap().unwrap();
    });
}
