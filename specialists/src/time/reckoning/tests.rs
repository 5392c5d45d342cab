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
        ("The fair ran from 28 May to 2 June.", "How long?", "from 28 May to 2 June is 5 days."),
        ("The fair ran from 28 December to 2 January.", "How long?", "from 28 December to 2 January is 5 days."),
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
        ("The bridge opened on 5 May.", "Is it true that the bridge opened on 20 May?", Contradiction),
        ("The bridge opened on 3 May.", "The bridge opened before 5 May.", Entailment),
        ("The bridge opened on 3 May.", "The bridge opened in May.", Entailment),
        ("The war ended in 1945. The bridge opened in 1950.", "Is it true that the bridge opened in 1950?", Entailment),
        ("The war ended 2 years ago.", "The war ended 730 days ago.", Entailment),
        ("The war ended 2 weeks ago.", "The war ended 14 days ago.", Entailment),
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
        // others
        ("Marie Curie was born in 1867.", "Is it true that Marie Curie died in 1934?"),
        ("Ada was born in 1920 and the school closed in 1990.", "The school lasted for 30 years."),
        ("The bridge opened in 1950. The bridge opened in 1960.", "The bridge opened in 1950."),
        // amounts in pieces
        ("The film lasted half an hour.", "Is it true that the film lasted 30 minutes?"),
        ("The film lasted an hour and a half.", "The film lasted 60 minutes."),
        ("The film lasted 1.5 hours.", "The film lasted 5 hours."),
        ("The ice lasted for 10,000 years.", "The ice lasted for 2 years."),
        ("The strike lasted twenty-five days.", "The strike lasted for less than 10 days."),
        ("The strike lasted between 5 and 6 days.", "The strike lasted for less than 6 days."),
        ("The class takes place once a week.", "Is it true that the class takes 2 hours?"),
        // hedges and denials
        ("The march lasted almost 3 hours.", "The march lasted less than 3 hours."),
        ("The march lasted up to 3 hours.", "The march lasted less than 2 hours."),
        ("The bridge cannot open in May.", "The bridge opens in May."),
        // no times
        ("The town grew from 1200 to 2400 people.", "How long did it take?"),
        ("The castle stood from the 12th to the 19th century.", "How long?"),
        ("The odds moved from 3:1 to 5:2.", "How long?"),
        ("The shop is open from 9:00 to 5:00.", "How long?"),
        ("The codes run from 00012 to 00020.", "How long?"),
        ("", ""),
        ("\u{2019}", "'' :: 5 5 5 9999999999999 years pm 99:99 32nd 0000"),
    ];
    for (told, asked) in cases {
        assert_eq!(reckon(told, asked, now()), None, "{told} {asked}");
    }
}
