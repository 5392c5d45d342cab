//! The model on candle's tensors: one test body for every device. On a machine without a GPU that
//! is the CPU alone, which is printed.

use candle_core::{Device, Tensor};

use super::tests::{largest_difference, tiny};
use super::*;
use crate::comm::SingleRank;
use crate::kv::KvCache;
use crate::model::body::Body;
use crate::model::tensors::TensorShard;
use crate::{AdapterHandle, AdapterPrecision, ModelFiles, Quantisation};

/// How far logits may lie from the reference's in f32. Sums are added in another order on every
/// device, and GPUs keep keys and values in f16: that alone moves this model's logits by 4e-3, as
/// measured with f16 on a CPU.
fn tolerance(device: &Device) -> f32 {
    if device.is_cpu() { 1e-4 } else { 1e-2 }
}

/// The CPU, and `cuda:0` where this build and machine have one.
fn devices() -> Vec<Device> {
    let cuda = crate::device::WITH_CUDA.then(|| crate::DeviceSpec::Cuda(0).open());
    if let Some(Err(error)) = &cuda {
        println!("skipped: no CUDA device ({error})");
    }
    std::iter::once(Device::Cpu).chain(cuda.and_then(Result::ok)).collect()
}

/// On candle's tensors also where kernels would suit, and with sequences computed together also on
/// a CPU: as on a GPU.
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

/// What follows `prompt`, the best token each time, with the logits that chose it.
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
                "{:?}, place {place}: logits differ by {difference}",
                device.location()
            );
            // where two lie closer than the tolerance either may be chosen, and what follows is
            // another text
            if theirs[*expected as usize] - theirs[*token as usize] >= 2.0 * tolerance(&device) {
                assert_eq!(token, expected, "{:?}, place {place}", device.location());
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

/// The default model's Q4_1 and Q8_0 blocks, through the device's own quantised products. Only in a
/// build for GPUs: candle's product on CPUs takes its time, and the kernels' agreement is tested
/// elsewhere.
#[cfg(feature = "cuda")]
#[test]
fn quantised_weights_agree_with_transformers_on_a_cuda_device() {
    use super::tests::{CLOSE, runs};

    let Some(device) = devices().into_iter().find(Device::is_cuda) else { return };
    let model = on_tensors(&ModelFiles::open(&crate::testing::default_model()).unwrap(), &device);
    let (mut places, mut whole, mut single) = (0, 0, 0);
    for run in runs("greedy.json") {
        // fed with the reference's own tokens, so that every place counts, also after a close one
        let tokens: Vec<u32> =
            run.prompt.iter().chain(&run.tokens[..run.tokens.len() - 1]).copied().collect();
        let answer = |rows: &Tensor| {
            argmax(&rows.narrow(0, run.prompt.len() - 1, run.tokens.len()).unwrap()).unwrap()
        };
        let in_one_pass = answer(&logits(&model, &mut model.new_cache(), &tokens, None));
        // up to 8 rows go through other kernels than more of them
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
    println!("of {places} clear places, {whole} agree in one pass, {single} in chunks of seven");
    // activations are rounded to 8 bits: a margin a little above CLOSE may turn
    assert!(
        places > 200 && whole.min(single) * 100 >= places * 99,
        "{whole} and {single} of {places} clear places agree"
    );
}

/// Every group of GPUs that the model can be split over.
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
