use chrono::{DateTime, Duration, Utc, Weekday};

use super::*;
use crate::learn::LearnedPart;
use crate::seeded::Seeded;

/// A Wednesday.
const NOW: &str = "2026-11-25T14:30:00Z";

fn at(text: &str) -> DateTime<Utc> {
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        _ => text.to_owned(),
    };
    DateTime::parse_from_rfc3339(&full).unwrap().to_utc()
}

fn stretch(from: &str, to: &str) -> Option<Interval> {
    let end = |text: &str| (!text.is_empty()).then(|| at(text));
    Some(Interval { from: end(from), to: end(to) })
}

#[test]
fn stretches_of_time_are_read_against_the_present() {
    for (question, from, to) in [
        ("What did I do yesterday?", "2026-11-24", "2026-11-25"),
        ("What's up today?", "2026-11-25", "2026-11-26"),
        ("the day before yesterday", "2026-11-23", "2026-11-24"),
        ("What about tomorrow?", "2026-11-26", "2026-11-27"),
        ("Where was I last week?", "2026-11-16", "2026-11-23"),
        ("this week", "2026-11-23", "2026-11-30"),
        ("next week", "2026-11-30", "2026-12-07"),
        ("last weekend", "2026-11-21", "2026-11-23"),
        ("last month", "2026-10-01", "2026-11-01"),
        ("next month", "2026-12-01", "2027-01-01"),
        ("last year", "2025-01-01", "2026-01-01"),
        ("next monday", "2026-11-30", "2026-12-01"),
        ("last monday", "2026-11-23", "2026-11-24"),
        ("last wednesday", "2026-11-18", "2026-11-19"),
        ("on Friday I was there", "2026-11-20", "2026-11-21"),
        ("this friday", "2026-11-27", "2026-11-28"),
        ("in May 2023", "2023-05-01", "2023-06-01"),
        ("What happened in May?", "2026-05-01", "2026-06-01"),
        ("in December", "2025-12-01", "2026-01-01"),
        ("last May", "2026-05-01", "2026-06-01"),
        ("on 7 May 2023", "2023-05-07", "2023-05-08"),
        ("on May 7th, 2023", "2023-05-07", "2023-05-08"),
        ("the 7th of May 2023", "2023-05-07", "2023-05-08"),
        ("on May 7", "2026-05-07", "2026-05-08"),
        ("on 2023-05-07", "2023-05-07", "2023-05-08"),
        ("in 2023", "2023-01-01", "2024-01-01"),
        ("since 2025", "2025-01-01", NOW),
        ("before 2023", "", "2023-01-01"),
        ("after May 2023", "2023-06-01", ""),
        ("between May and July 2026", "2026-05-01", "2026-08-01"),
        ("from March 2024 to June 2024", "2024-03-01", "2024-07-01"),
        ("3 days ago", "2026-11-22", "2026-11-23"),
        ("two weeks ago", "2026-11-08", "2026-11-15"),
        ("a year ago", "2025-01-01", "2026-01-01"),
        ("in the last 3 days", "2026-11-22T14:30:00Z", NOW),
        ("over the past two months", "2026-09-25T14:30:00Z", NOW),
        ("in two days", "2026-11-27", "2026-11-28"),
        ("within the next 2 hours", NOW, "2026-11-25T16:30:00Z"),
        ("two hours ago", "2026-11-25T12:00:00Z", "2026-11-25T13:00:00Z"),
        ("summer 2025", "2025-06-01", "2025-09-01"),
        ("last summer", "2026-06-01", "2026-09-01"),
        ("last winter", "2025-12-01", "2026-03-01"),
        ("next spring", "2027-03-01", "2027-06-01"),
        ("yesterday at 5 pm", "2026-11-24T17:00:00Z", "2026-11-24T18:00:00Z"),
        ("yesterday morning", "2026-11-24T05:00:00Z", "2026-11-24T12:00:00Z"),
        ("last night", "2026-11-24T21:00:00Z", "2026-11-25T05:00:00Z"),
    ] {
        assert_eq!(read_time(question, at(NOW)).interval, stretch(from, to), "{question}");
    }
}

#[test]
fn what_comes_again_is_no_stretch() {
    let mondays = read_time("What do I do on monday mornings?", at(NOW));
    assert_eq!((mondays.interval, mondays.weekday, mondays.hours), (None, Some(Weekday::Mon), Some((5, 12))));
    assert_eq!(read_time("every friday", at(NOW)).weekday, Some(Weekday::Fri));
    assert_eq!(read_time("on Sundays", at(NOW)).weekday, Some(Weekday::Sun));
    assert_eq!(read_time("in the evening", at(NOW)).hours, Some((17, 22)));
    assert_eq!(read_time("at 17:30", at(NOW)).hours, Some((17, 18)));
    assert_eq!(read_time("at 5pm", at(NOW)).hours, Some((17, 18)));
    assert_eq!(read_time("at 12 am", at(NOW)).hours, Some((0, 1)));
    assert_eq!(read_time("in winter", at(NOW)).months, Some((12, 2)));
}

#[test]
fn words_that_only_look_like_time_are_none() {
    for question in [
        "May I come in?",
        "They march on.",
        "I fall for it",
        "What should I do?",
        "The sun sat on me",
        "I have two dogs",
        "He has a second chance",
        "last chance",
        "next door",
        "the spring of the clock broke",
        "Room 2023",
        "",
        "Who won 3 to 2?",
        "In the beginning",
    ] {
        let read = read_time(question, at(NOW));
        let only_spring = question.contains("spring") && read.interval.is_none();
        assert!(read.is_empty() || only_spring, "{question}: {read:?}");
    }
}

#[test]
fn no_question_makes_it_panic() {
    let mut random = Seeded::new();
    let words = [
        "last", "next", "in", "9999", "years", "ago", "may", "31", "february", "week", "at", "25:99", "pm", "since", "between", "and", "-",
        "0", "monday", "the", "31st", "of",
    ];
    for _ in 0..3_000 {
        let question: Vec<&str> = (0..random.below(8)).map(|_| random.pick(&words)).collect();
        read_time(&question.join(" "), at(NOW));
        read_time(&random.unicode(30), at(NOW));
    }
}

#[test]
fn periods_close_and_neighbours_are_near() {
    let distance = |a: &str, b: &str| periodic(at(a)).iter().zip(periodic(at(b))).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let midnight = distance("2026-11-24T23:59:00Z", "2026-11-25T00:01:00Z");
    assert!(midnight < 0.02, "{midnight}");
    assert!(distance("2026-11-23", "2026-11-22") < distance("2026-11-23", "2026-11-26"), "Monday is next to Sunday");
    assert!(distance("2025-12-31", "2026-01-01") < distance("2026-01-01", "2026-07-02"), "seasons go round");
    for pair in periodic(at(NOW)).chunks(2) {
        assert!((pair[0].powi(2) + pair[1].powi(2) - 1.0).abs() < 1e-12);
    }
}

#[test]
fn features_are_bounded_and_as_many_as_they_say() {
    let mut random = Seeded::new();
    for question in ["yesterday", "since 2025", "after 2023", "every monday in winter at 5 pm", "", "in the last 3 days"] {
        let now = at(NOW) + Duration::seconds(random.below(1 << 30) as i64);
        let features = time_features(now, random.next(), &read_time(question, now));
        assert_eq!(features.len(), TIME_FEATURES);
        assert!(features.iter().all(|feature| (-1.0..=1.0).contains(feature)), "{question}: {features:?}");
    }
    let (old, new) = (log_age(at(NOW), at("2020-01-01")), log_age(at(NOW), at("2026-11-24")));
    assert!(old > new && new > 0.0 && log_age(at(NOW), at("2027-01-01")) == 0.0);
    assert!(log_deadline(60_000) > log_deadline(1_000) && log_deadline(0) == 0.0 && log_deadline(u64::MAX) == 1.0);
}

#[test]
fn ages_are_told_in_words() {
    for (when, told) in [
        (NOW, "just now"),
        ("2026-11-25T14:29:00Z", "1 minute ago"),
        ("2026-11-25T11:00:00Z", "3 hours ago"),
        ("2026-11-22T14:00:00Z", "3 days ago"),
        ("2026-11-01", "3 weeks ago"),
        ("2026-06-01", "5 months ago"),
        ("2023-05-07", "3 years ago"),
        ("2026-11-27T15:30:00Z", "in 2 days"),
    ] {
        assert_eq!(age_in_words(at(NOW), at(when)), told);
    }
}

#[test]
fn the_shipped_timing_is_sound() {
    let file = crate::learn::LearnedFile::<Timing>::parse(SHIPPED_TIMING).unwrap();
    assert!(file.parameters.half_life_s >= 3_600.0 && file.base_sha256.is_none(), "{file:?}");
}

fn timing(half_life_s: f64) -> Timing {
    Timing { half_life_s, recurring_weight: 0.2, interval_weight: 0.3, slope: 1.0, offset: 0.0 }
}

fn candidates(relevances_and_times: &[(f64, &str)]) -> Vec<Candidate> {
    relevances_and_times
        .iter()
        .map(|(relevance, when)| Candidate { relevance: *relevance, when: (!when.is_empty()).then(|| at(when)) })
        .collect()
}

#[test]
fn what_is_old_fades_unless_it_was_asked_for() {
    let memories = candidates(&[(0.6, "2023-05-07"), (0.5, "2026-11-24"), (0.1, "")]);
    let order = |question: &str| -> Vec<usize> {
        timing(30.0 * 86_400.0).rank(&memories, &read_time(question, at(NOW)), at(NOW)).into_iter().map(|(index, _)| index).collect()
    };
    assert_eq!(order("Where did we eat?"), [1, 2, 0]);
    assert_eq!(order("Where did we eat in May 2023?"), [0, 1, 2]);
    let never_fades = timing(1e15).rank(&memories, &TimeReading::default(), at(NOW));
    assert_eq!(never_fades[0].0, 0);
    assert_eq!(faded(86_400.0, 86_400.0), 0.5);
    assert_eq!(faded(-5.0, 1.0), 1.0, "the future has not faded");
}

#[test]
fn a_weekday_and_hours_that_are_named_draw_memories_of_their_time() {
    // a Monday at 8, a Thursday at 20
    let memories = candidates(&[(0.5, "2026-11-19T20:00:00Z"), (0.5, "2026-11-16T08:00:00Z")]);
    let said = read_time("What do I do on monday mornings?", at(NOW));
    assert_eq!(timing(1e9).rank(&memories, &said, at(NOW))[0].0, 1);
    assert!(recurring_similarity(&said, at("2026-11-16T08:30:00Z")) > 0.99);
    assert_eq!(recurring_similarity(&TimeReading::default(), at(NOW)), 0.0);
}

#[test]
fn the_half_life_is_found_again_from_outcomes() {
    let mut random = Seeded::new();
    let true_half_life = 10.0 * 86_400.0;
    let examples: Vec<TimingExample> = (0..6_000)
        .map(|_| {
            let (relevance, age_s) = (random.unit(), random.unit() * 60.0 * 86_400.0);
            let p = 1.0 / (1.0 + (-(8.0 * relevance * faded(age_s, true_half_life) - 2.0)).exp());
            TimingExample { relevance, age_s, useful: random.unit() < p }
        })
        .collect();
    let found = Timing::fit(&examples, &timing(1.0)).unwrap();
    let case = format!("seed {}: {found:?}", random.seed);
    assert!((found.half_life_s / true_half_life).ln().abs() < 0.35, "{case}");
    assert!(found.loss(&examples) < timing(true_half_life).loss(&examples) && found.check().is_ok(), "{case}");
    assert_eq!(found.recurring_weight, 0.2);
    let all_useful: Vec<_> = examples.iter().map(|example| TimingExample { useful: true, ..*example }).collect();
    assert_eq!(Timing::fit(&all_useful, &timing(1.0)), None);
}

fn prospect(remaining_ms: f64) -> Prospect {
    let quality = Quality { full: 1.0, short: 0.8 };
    Prospect { prompt_tokens: 100, max_tokens: 100, remaining_ms, quality, penalty: 0.5, may_defer: false, has_evidence: true }
}

fn pace() -> Pace {
    Pace { queue_ms: 100.0, prefill_ms_per_token: 1.0, decode_ms_per_token: 20.0, share_used: 1.0, answers: 9 }
}

#[test]
fn the_course_follows_the_time_that_there_is() {
    // the first token after 200 ms, all of it after 2180 ms, a third after 840 ms
    let course = |remaining_ms: f64| plan(&prospect(remaining_ms), pace()).chosen.course;
    assert_eq!(course(60_000.0), Course::Full);
    assert_eq!(course(2_000.0), Course::Short);
    assert_eq!(course(1_000.0), Course::Short);
    assert_eq!(course(150.0), Course::Evidence);
    let without = Prospect { has_evidence: false, ..prospect(150.0) };
    assert_ne!(plan(&without, pace()).chosen.course, Course::Evidence);
    let deferring = |remaining_ms: f64| plan(&Prospect { may_defer: true, ..prospect(remaining_ms) }, pace()).chosen.course;
    assert_eq!(deferring(60_000.0), Course::Full);
    assert_eq!(deferring(600.0), Course::Defer);
    assert_eq!(deferring(150.0), Course::Defer);
}

#[test]
fn the_chosen_option_is_worth_the_most_and_everything_is_told() {
    let mut random = Seeded::new();
    for _ in 0..2_000 {
        let remaining_ms = random.unit() * 20_000.0;
        let given = Prospect {
            max_tokens: 1 + random.below(300),
            prompt_tokens: random.below(2_000),
            may_defer: random.below(2) == 0,
            has_evidence: random.below(2) == 0,
            penalty: random.unit(),
            ..prospect(remaining_ms)
        };
        let plan = plan(&given, Pace { queue_ms: random.unit() * 3_000.0, share_used: random.unit(), ..pace() });
        let case = format!("seed {}: {given:?} gave {plan:?}", random.seed);
        assert!(plan.options.contains(&plan.chosen), "{case}");
        assert!(plan.options.iter().all(|option| option.reward.is_finite() && (0.0..=1.0).contains(&option.quality)), "{case}");
        if plan.chosen.course != Course::Evidence {
            assert!(
                plan.options.iter().filter(|option| option.course != Course::Evidence).all(|option| option.reward <= plan.chosen.reward),
                "{case}"
            );
        }
        assert!(given.may_defer || plan.options.iter().all(|option| option.course != Course::Defer), "{case}");
    }
}

#[test]
fn the_pace_follows_what_is_measured() {
    let mut pace = Pace::default();
    let measured = Measured {
        queue_ms: 50.0,
        prefill_ms: 100.0,
        prefilled_tokens: 50,
        decode_ms: 90.0,
        completion_tokens: 10,
        max_tokens: 20,
        complete: true,
    };
    pace.observe(&measured);
    assert_eq!((pace.queue_ms, pace.prefill_ms_per_token, pace.decode_ms_per_token, pace.share_used), (50.0, 2.0, 10.0, 0.5));
    for _ in 0..50 {
        pace.observe(&Measured { decode_ms: 270.0, ..measured });
    }
    assert!((pace.decode_ms_per_token - 30.0).abs() < 0.1, "{pace:?}");
    let before = pace;
    pace.observe(&Measured { prefilled_tokens: 0, completion_tokens: 0, complete: false, queue_ms: f64::NAN, ..measured });
    assert_eq!(
        (pace.queue_ms, pace.decode_ms_per_token, pace.share_used),
        (before.queue_ms, before.decode_ms_per_token, before.share_used)
    );
}
