use nyx_domain::{AnswerMode, Pace};

use super::*;
use crate::test_rng::TestRng;

#[test]
fn ages_are_formatted_in_words() {
    let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
    for (when, reported) in [
        ("2026-11-25T14:30:00Z", "just now"),
        ("2026-11-25T14:29:00Z", "1 minute ago"),
        ("2026-11-25T11:00:00Z", "3 hours ago"),
        ("2026-11-22T14:00:00Z", "3 days ago"),
        ("2026-11-01T00:00:00Z", "3 weeks ago"),
        ("2026-06-01T00:00:00Z", "5 months ago"),
        ("2023-05-07T00:00:00Z", "3 years ago"),
        ("2026-11-27T15:30:00Z", "in 2 days"),
    ] {
        assert_eq!(age_in_words(at("2026-11-25T14:30:00Z"), at(when)), reported);
    }
}

fn prospect(remaining_ms: f64) -> PlanRequest {
    let quality = Quality { full: 1.0, short: 0.8 };
    PlanRequest {
        prompt_tokens: 100,
        max_tokens: 100,
        remaining_ms,
        quality,
        penalty: 0.5,
        may_defer: false,
    }
}

fn pace() -> Pace {
    Pace {
        queue_ms: 100.0,
        prefill_ms_per_token: 1.0,
        decode_ms_per_token: 20.0,
        share_used: 1.0,
        answers: 9,
    }
}

#[test]
fn the_course_follows_the_time_that_there_is() {
    // the first token after 200 ms, all of them after 2180 ms, a third after 840 ms
    let mode = |remaining_ms: f64| plan(&prospect(remaining_ms), pace()).chosen.mode;
    assert_eq!(mode(60_000.0), AnswerMode::Full);
    assert_eq!(mode(2_000.0), AnswerMode::Short);
    assert_eq!(mode(1_000.0), AnswerMode::Short);
    // not even the first token in time: of equals the first
    assert_eq!(mode(150.0), AnswerMode::Full);
    let deferring = |remaining_ms: f64| {
        plan(&PlanRequest { may_defer: true, ..prospect(remaining_ms) }, pace()).chosen.mode
    };
    assert_eq!(deferring(60_000.0), AnswerMode::Full);
    assert_eq!(deferring(600.0), AnswerMode::Defer);
    assert_eq!(deferring(150.0), AnswerMode::Defer);
}

#[test]
fn the_chosen_option_has_the_highest_value_and_all_values_are_in_the_trace() {
    let mut random = TestRng::new();
    for _ in 0..2_000 {
        let remaining_ms = random.unit() * 20_000.0;
        let given = PlanRequest {
            max_tokens: 1 + random.below(300),
            prompt_tokens: random.below(2_000),
            may_defer: random.below(2) == 0,
            penalty: random.unit(),
            ..prospect(remaining_ms)
        };
        let plan = plan(
            &given,
            Pace { queue_ms: random.unit() * 3_000.0, share_used: random.unit(), ..pace() },
        );
        let case = format!("seed {}: {given:?} gave {plan:?}", random.seed);
        assert!(plan.options.contains(&plan.chosen), "{case}");
        assert!(
            plan.options
                .iter()
                .all(|option| option.reward.is_finite() && (0.0..=1.0).contains(&option.quality)),
            "{case}"
        );
        assert!(plan.options.iter().all(|option| option.reward <= plan.chosen.reward), "{case}");
        assert!(
            given.may_defer || plan.options.iter().all(|option| option.mode != AnswerMode::Defer),
            "{case}"
        );
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
    observe(&mut pace, &measured);
    assert_eq!(
        (pace.queue_ms, pace.prefill_ms_per_token, pace.decode_ms_per_token, pace.share_used),
        (50.0, 2.0, 10.0, 0.5)
    );
    for _ in 0..50 {
        observe(&mut pace, &Measured { decode_ms: 270.0, ..measured });
    }
    assert!((pace.decode_ms_per_token - 30.0).abs() < 0.1, "{pace:?}");
    let before = pace;
    observe(
        &mut pace,
        &Measured {
            prefilled_tokens: 0,
            completion_tokens: 0,
            complete: false,
            queue_ms: f64::NAN,
            ..measured
        },
    );
    assert_eq!(
        (pace.queue_ms, pace.decode_ms_per_token, pace.share_used),
        (before.queue_ms, before.decode_ms_per_token, before.share_used)
    );
}
