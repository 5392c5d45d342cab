use chrono::{DateTime, TimeZone, Utc};

use super::{Relation, reckon};

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 28, 9, 30, 0).single().expect("a time")
}

fn relation(told: &str, asked: &str) -> Option<Relation> {
    reckon(told, asked, now()).and_then(|reckoning| reckoning.relation)
}

#[test]
fn lengths_between_points_are_counted() {
    let cases = [
        (
            "The office was open from July 1946 to Dec 1986.",
            "How long was it open?",
            "from July 1946 to Dec 1986 is 40 years 5 months (485 months).",
        ),
        ("The fair began on Thursday and ended on Wednesday.", "How long did it go on?", "from Thursday to Wednesday is 6 days."),
        ("The night shift lasts from 10:30 PM to 6 am.", "How long is it?", "from 10:30 PM to 6 am is 7 hours 30 minutes."),
        ("She lived there from 1990 until 2004.", "How long?", "from 1990 to 2004 is 14 years."),
        ("It ran from 28 February 2024 to 1 March 2024.", "How many days?", "from 28 February 2024 to 1 March 2024 is 2 days."),
        ("", "How long is it from October to March?", "from October to March is 5 months."),
        ("", "Which day is it in 12 days?", "in 12 days is Thursday, 10 December 2026, 09:30 UTC."),
    ];
    for (told, asked, expected) in cases {
        assert_eq!(reckon(told, asked, now()).map(|reckoning| reckoning.text).as_deref(), Some(expected), "{told} {asked}");
    }
}

#[test]
fn statements_are_compared_as_stretches() {
    use Relation::{Contradiction, Entailment, Neutral};
    let cases = [
        ("The strike went on from March to May.", "The strike went on for less than 20 months.", Entailment),
        ("The strike went on from March to May.", "The strike went on for 3 months.", Contradiction),
        ("The strike lasted from July 1946 to Dec 1986.", "Does it follow that: The strike lasted for 40 years 6 months.", Contradiction),
        ("In 5 months, the bridge will open.", "The bridge will open before 79 days.", Contradiction),
        ("The bridge will open after 9 months.", "Is it true that the bridge will open after 256 days?", Entailment),
        ("Before 2 years, the bridge will open.", "Before 3 months, the bridge will open.", Neutral),
        ("Before 3 days, the bridge will open.", "The bridge will open before 100 hours.", Entailment),
        ("The bridge opened before December.", "The bridge opened after Sep.", Neutral),
        ("The bridge opened before the 16th.", "The bridge opened before the 21st.", Entailment),
        ("On 19th December 1927, the bridge opened.", "Before 11th August 1974, the bridge opened.", Entailment),
        ("The bridge opened at 17:00.", "The bridge opened after 6 pm.", Contradiction),
        ("The march lasted for at least 3 hours.", "The march lasted more than 200 minutes.", Neutral),
        ("He finished school after November.", "He finished school after December.", Neutral),
        ("The shop closes before 6 AM.", "The shop closes after 23:00.", Contradiction),
        ("The course took 9 months.", "The course took 274 days.", Entailment),
    ];
    for (told, asked, expected) in cases {
        assert_eq!(relation(told, asked), Some(expected), "{told} {asked}");
    }
}

#[test]
fn the_statement_may_follow_in_the_same_text() {
    let asked = "My lease runs from March 2024 to August 2025. Is it true that my lease runs for 17 months?";
    let reckoning = reckon("", asked, now()).expect("two claims");
    assert_eq!(reckoning.relation, Some(Relation::Entailment));
    assert_eq!(reckoning.text, "from March 2024 to August 2025 is 17 months; for 17 months: entailment.");
}

#[test]
fn nothing_is_said_of_what_cannot_be_placed() {
    let cases = [
        ("", "You may march on."),
        ("", "What did Ben say?"),
        ("The bridge did not open before May.", "The bridge opened after June."),
        ("The bridge opened in May.", "My sister married after June."),
        ("The bridge opened in May, the tunnel in June and the lift on Monday.", "The bridge opened in April."),
        ("They met three days after the wedding.", "They met after 5 months."),
        ("The bridge opened on Monday.", "The bridge opened after 5 pm."),
        ("The bridge opened on Wednesday.", "The bridge opened after Sunday."),
        ("", ""),
        ("\u{2019}", "'' :: 5 5 5 9999999999999 years pm 99:99 32nd 0000"),
    ];
    for (told, asked) in cases {
        assert_eq!(reckon(told, asked, now()), None, "{told} {asked}");
    }
}
