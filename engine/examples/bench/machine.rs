//! The machine: its hardware, its memory bandwidth, and the speed-up from a second core.

use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

use serde::Serialize;

/// Larger than any cache.
const BUFFER: usize = 256 << 20;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    /// For each core, the logical cores on the same physical core, as Linux reports them.
    pub siblings: Vec<String>,
    pub memory_gib: Option<f64>,
    /// Vector extensions that Nyx's kernels and llama.cpp's check for.
    pub instructions: String,
    pub rustc: String,
    /// Cores that other processes kept busy while the rounds ran.
    pub others: Option<f64>,
    /// Memory bandwidth in GB/s, read by one thread and by two.
    pub bandwidth_1: f64,
    pub bandwidth_2: Option<f64>,
    /// Speed-up of two threads over one: arithmetic in registers, and memory reads.
    pub second_core_computes: Option<f64>,
    pub second_core_reads: Option<f64>,
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn file(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// A field of `/proc/cpuinfo` or `/proc/meminfo`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = file(path)?;
    text.lines().find_map(|line| {
        Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim().to_owned())
    })
}

fn rustc() -> Option<String> {
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .arg("--version")
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn instructions() -> String {
    let flags = field("/proc/cpuinfo", "flags").unwrap_or_default();
    let known =
        ["avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8"];
    let has: Vec<&str> =
        known.into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name)).collect();
    has.join(" ")
}

pub fn describe(buffer: &Memory) -> Machine {
    let cores = cores();
    let two = cores >= 2;
    let sibling = |core: usize| {
        file(&format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"))
    };
    let bandwidth_1 = buffer.gigabytes_a_second(1);
    let bandwidth_2 = two.then(|| buffer.gigabytes_a_second(2));
    Machine {
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
        cores,
        siblings: (0..cores).map_while(sibling).collect(),
        memory_gib: field("/proc/meminfo", "MemTotal").and_then(|text| {
            Some(text.strip_suffix(" kB")?.parse::<f64>().ok()? / (1 << 20) as f64)
        }),
        instructions: instructions(),
        rustc: rustc().unwrap_or_else(|| "unknown".into()),
        others: None,
        bandwidth_1,
        bandwidth_2,
        second_core_computes: two.then(|| 2.0 * compute_seconds(1) / compute_seconds(2)),
        second_core_reads: bandwidth_2.map(|two| two / bandwidth_1),
    }
}

/// Seconds until all threads have done the same arithmetic; the minimum of several runs, to exclude
/// interference.
fn compute_seconds(threads: usize) -> f64 {
    const TRIES: usize = 5;
    let work = || {
        let mut sums = [1.0_f32; 64];
        for _ in 0..2_000_000 {
            sums.iter_mut().for_each(|sum| *sum = *sum * 0.999 + 0.001);
        }
        black_box(sums);
    };
    let once = || {
        let begun = Instant::now();
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        begun.elapsed().as_secs_f64()
    };
    (0..TRIES).map(|_| once()).fold(f64::MAX, f64::min)
}

/// Linux's unit of CPU time in `/proc` (USER_HZ).
const TICKS_A_SECOND: f64 = 100.0;

/// CPU time that a process has used; `None` without `/proc`.
pub fn processor_seconds(process: &str) -> Option<f64> {
    let stat = file(&format!("/proc/{process}/stat"))?;
    // the process name before it may contain spaces
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_A_SECOND)
}

/// Measures the CPU use of other processes while something runs.
pub struct Others {
    begun: Instant,
    /// This process and its child processes.
    own: Vec<String>,
    before: Option<f64>,
}

impl Others {
    pub fn watch(started: impl IntoIterator<Item = String>) -> Self {
        let own: Vec<String> = started.into_iter().chain(["self".to_owned()]).collect();
        Self { begun: Instant::now(), before: Self::seconds(&own), own }
    }

    /// Mean number of busy cores since `watch`.
    pub fn cores(&self) -> Option<f64> {
        Some(
            ((Self::seconds(&self.own)? - self.before?) / self.begun.elapsed().as_secs_f64())
                .max(0.0),
        )
    }

    /// All busy time of the machine, including time stolen by the host, minus our own.
    fn seconds(own: &[String]) -> Option<f64> {
        let stat = file("/proc/stat")?;
        let fields: Vec<f64> = stat
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .map_while(|field| field.parse().ok())
            .collect();
        // user, nice, system, idle, iowait, irq, softirq, steal
        let [user, nice, system, _, _, irq, softirq, steal, ..] = fields.as_slice() else {
            return None;
        };
        let busy = (user + nice + system + irq + softirq + steal) / TICKS_A_SECOND;
        own.iter().try_fold(busy, |left, process| Some(left - processor_seconds(process)?))
    }
}

/// A buffer to measure the read bandwidth of memory.
pub struct Memory(Vec<u64>);

impl Memory {
    pub fn new() -> Self {
        // zeros could all map to one page
        Self((0..BUFFER as u64 / 8).collect())
    }

    /// Reads all of it several times with this many threads, each its own part.
    pub fn gigabytes_a_second(&self, threads: usize) -> f64 {
        const TIMES: usize = 8;
        let part = self.0.len().div_ceil(threads.max(1));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for part in self.0.chunks(part) {
                scope.spawn(move || {
                    for _ in 0..TIMES {
                        black_box(
                            black_box(part)
                                .iter()
                                .fold(0_u64, |sum, value| sum.wrapping_add(*value)),
                        );
                    }
                });
            }
        });
        (TIMES * BUFFER) as f64 / begun.elapsed().as_secs_f64() / 1e9
    }
}
