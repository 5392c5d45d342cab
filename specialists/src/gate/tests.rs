use super::random::SplitMix;
use super::*;

fn unit(random: &mut SplitMix) -> f64 {
    (random.next() >> 11) as f64 / (1_u64 << 53) as f64
}

fn pairs(random: &mut SplitMix, count: usize, candidate: f64, live: f64) -> Vec<Pair> {
    let score = |random: &mut SplitMix, p: f64| f64::from(u8::from(unit(random) < p));
    (0..count)
        .map(|at| Pair {
            template: (at / 2).to_string(),
            candidate: score(random, candidate),
            live: score(random, live),
        })
        .collect()
}

#[test]
fn the_bootstrap_keeps_its_error_rate_and_has_power() {
    let mut random = SplitMix(5);
    let share = |random: &mut SplitMix, candidate: f64, live: f64| {
        (0..60)
            .filter(|seed| compare(&pairs(random, 160, candidate, live), 0.05, *seed).better)
            .count()
    };
    let (wrong, right) = (share(&mut random, 0.6, 0.6), share(&mut random, 0.8, 0.55));
    assert!(wrong <= 8, "{wrong} of 60 where both are the same");
    assert!(right >= 58, "{right} of 60 where one is better");
    // one test at a smaller level is harder to pass
    let some = pairs(&mut random, 160, 0.7, 0.6);
    let (first, fifth) = (compare(&some, level(0.05, 1), 1), compare(&some, level(0.05, 5), 1));
    assert!(fifth.bound <= first.bound && level(0.05, 3) == 0.0125);
    assert_eq!(compare(&some, 0.05, 9), compare(&some, 0.05, 9));
    // no pairs
    assert!(!compare(&[], 0.05, 1).better);
    let same = [Pair { template: "a".into(), candidate: 1.0, live: 1.0 }];
    assert!(!compare(&same, 0.05, 1).better);
}

#[test]
fn a_template_counts_once_however_often_it_is_asked() {
    // one template won a hundred times counts as one win
    let mut many: Vec<Pair> =
        (0..100).map(|_| Pair { template: "same".into(), candidate: 1.0, live: 0.0 }).collect();
    many.extend((0..3).map(|at| Pair { template: at.to_string(), candidate: 0.0, live: 1.0 }));
    assert!(!compare(&many, 0.05, 1).better, "{:?}", compare(&many, 0.05, 1));
}

#[test]
fn a_confidence_sequence_may_be_looked_at_at_any_time() {
    let (mut missed, runs) = (0, 200);
    let mut random = SplitMix(11);
    for _ in 0..runs {
        let mut sequence = BettingSequence::new(0.05);
        let mut out = false;
        for _ in 0..400 {
            sequence.push(f64::from(u8::from(unit(&mut random) < 0.3)));
            let [low, high] = sequence.interval();
            out |= !(low..=high).contains(&0.3);
        }
        missed += u32::from(out);
        let [low, high] = sequence.interval();
        assert!(high - low < 0.25, "{low} to {high} after 400");
    }
    assert!(missed <= runs / 20 + 6, "{missed} of {runs} sequences left the mean out");
}

#[test]
fn a_canary_that_is_better_is_found_and_one_that_is_not_is_retired() {
    let run = |seed: u64, canary: f64, live: f64| {
        let (mut random, mut trial) = (SplitMix(seed), CanaryTrial::new(0.05, 400));
        let mut requests = 0;
        while trial.verdict() == CanaryVerdict::Open && requests < 20_000 {
            requests += 1;
            let of_canary = unit(&mut random) < 0.3;
            let p = if of_canary { canary } else { live };
            trial.push(of_canary, if unit(&mut random) < p { 1.0 } else { -1.0 });
        }
        (trial.verdict(), trial.pairs())
    };
    let better = (0..40).filter(|seed| run(*seed, 0.85, 0.5).0 == CanaryVerdict::Better).count();
    let worse = (0..40).filter(|seed| run(*seed, 0.4, 0.8).0 == CanaryVerdict::Worse).count();
    let same = (0..60).filter(|seed| run(*seed, 0.6, 0.6).0 == CanaryVerdict::Better).count();
    assert!(better >= 39 && worse >= 39, "better {better}, worse {worse} of 40");
    assert!(same <= 5, "{same} of 60 that are the same were promoted");
    assert_eq!(run(1, 0.6, 0.6), (CanaryVerdict::Undecided, 400));
    assert!(run(2, 1.0, 0.0).1 < 60, "what is plain is seen soon: {:?}", run(2, 1.0, 0.0));
}

#[test]
fn page_and_hinkley_alarm_as_seldom_as_they_say_and_soon_after_a_fall() {
    let normal = |random: &mut SplitMix| (0..12).map(|_| unit(random)).sum::<f64>() - 6.0;
    let mut random = SplitMix(3);
    let length = 500.0;
    let first_alarm = |random: &mut SplitMix| {
        let mut watch = PageHinkley::new(length);
        (1..20_000).find(|_| watch.push(0.2, 0.2 + 0.3 * normal(random))).unwrap_or(20_000)
    };
    let mean = (0..60).map(|_| f64::from(first_alarm(&mut random))).sum::<f64>() / 60.0;
    assert!((length / 2.0..length * 2.5).contains(&mean), "an alarm in {mean}, said {length}");
    // a fall by one standard deviation
    let mut delays = Vec::new();
    for _ in 0..40 {
        let mut watch = PageHinkley::new(1_000.0);
        let early = (0..60).filter(|_| watch.push(0.5, 0.5 + 0.3 * normal(&mut random))).count();
        assert!(early < 3, "{early} alarms in 60 steady rewards");
        delays.push(
            (1..500).find(|_| watch.push(0.5, 0.2 + 0.3 * normal(&mut random))).unwrap_or(500),
        );
    }
    delays.sort_unstable();
    assert!(delays[20] < 30, "half of the falls were seen after {} rewards", delays[20]);
}

#[test]
fn templates_leave_out_what_was_filled_in() {
    assert_eq!(
        template("They met Anna on 3 May 2019 at the mall."),
        template("They met Boris on 7 June 2021 at the mall.")
    );
    assert_ne!(template("They met Anna at the mall."), template("They met Anna at the lake."));
    assert_eq!(template("It says \"red box\" here"), "it says here");
    let all: Vec<String> = (0..500)
        .map(|at| {
            format!(
                "word{} alpha beta {}",
                char::from(b'a' + (at % 26) as u8),
                "x".repeat(at / 26 + 1)
            )
        })
        .collect();
    let parts = HeldBack::of(all.iter(), |text| template(text));
    let share = parts.tried.len() as f64 / 500.0;
    assert!((0.12..0.28).contains(&share), "{share} is set aside");
    assert!(parts.tried.iter().all(|text| held_back(&template(text))));
}
