use super::*;
use crate::seeded::Seeded;

fn lexicon() -> Lexicon {
    Lexicon::shipped().unwrap()
}

fn people(text: &str, choices: &[&str]) -> Option<People> {
    let choices: Vec<String> = choices.iter().map(|choice| (*choice).to_owned()).collect();
    People::find(&lexicon(), text, text, &choices)
}

#[test]
fn choices_that_say_that_it_cannot_be_known() {
    for choice in [
        "Unknown",
        "Not answerable",
        "Cannot be determined",
        "Can't be determined",
        "Can\u{2019}t answer",
        "Not enough info",
        "Not enough information",
        "Undetermined",
        "Cannot answer",
        "not known.",
        "It cannot be determined",
        "Not known",
    ] {
        assert!(says_unknown(choice), "{choice}");
    }
    for choice in ["The unknown man", "No", "Nothing", "The man who can't be still", "Unknowns Inc", ""] {
        assert!(!says_unknown(choice), "{choice}");
    }
}

#[test]
fn only_questions_about_two_people_are_read_twice() {
    let text = "The river Elbe is longer than the river Oder. Which is longer?";
    assert_eq!(people(text, &["Elbe", "Oder", "Unknown"]), None);
    assert_eq!(people("A man and a woman met. Who spoke?", &["The man", "The woman", "The dog"]), None);
    assert_eq!(people("Is it true?", &["Yes", "No"]), None);
    assert_eq!(people("Muslims and Jews met.", &["Muslim people", "Jewish people", "Unknown"]), None);
    let found = people("An old man and a young man came in. Who spoke?", &["The old man", "The young man"]).unwrap();
    assert_eq!((found.pair, found.unknown), ((0, 1), None));
    assert!(found.axes.contains(&"age".to_owned()), "{:?}", found.axes);
}

#[test]
fn a_text_tells_two_apart_when_it_says_something_of_one() {
    let choices = ["The old man", "The young man", "Unknown"];
    for (text, told_apart) in [
        ("An old man and a young man came in.", false),
        ("Two men came in, one old and one young, talking loudly.", false),
        ("An old man and a young man came in. The young man spoke.", true),
        ("An old man came in. A young man left.", true),
        ("An old man came in.", false),
    ] {
        let found = people("old man, young man", &choices).unwrap();
        assert_eq!(found.told_apart(text), told_apart, "{text}");
    }
}

#[test]
fn what_is_read_does_not_depend_on_the_groups() {
    let mut random = Seeded::new();
    let adjectives = ["old", "young", "Indian", "Norwegian", "blind", "tall", "Jewish", "gay", "poor", "rich"];
    for _ in 0..500 {
        let (first, second) = (random.pick(&adjectives), random.pick(&adjectives));
        if first == second {
            continue;
        }
        let filler = random.pick(&["talked to", "waited for", "met", "wrote to"]);
        let text = format!("There the {first} woman {filler} the {second} woman. The {first} woman left.");
        let choices = [format!("The {first} woman"), format!("The {second} woman")];
        let people = People::find(&lexicon(), &text, &text, &choices).unwrap();
        let expected = format!("There Alex {filler} Robin. Alex left.");
        assert_eq!(people.hidden(&text, ["Alex", "Robin"]), expected, "seed {}", random.seed);
    }
}

#[test]
fn under_neutral_names_no_group_is_named() {
    for (text, choices, hidden) in [
        (
            "An old man met the young man. My young man waved.\n\nWho waved?",
            ["The old man", "Unknown", "The young man"],
            "Alex met Robin. My Robin waved.\n\nWho waved?",
        ),
        (
            "Two candidates came, one Muslim and one Sikh. The Sikh candidate was late.\n\nWho was late?",
            ["The Sikh candidate", "The Muslim candidate", "Not known"],
            "Two candidates came, one Robin and one Alex. Alex was late.\n\nWho was late?",
        ),
        (
            "I saw a regular-sized guy and a really fat one. The fat guys waved.\n\nWho sat?",
            ["The regular-sized guy", "The fat guy", "Not known"],
            "I saw Alex and a really Robin one. Robin waved.\n\nWho sat?",
        ),
        (
            "One had no tattoos, the other had tattoos. The guy with tattoos left.\n\nWho left?",
            ["The guy with tattoos", "The guy with no tattoos", "Unknown"],
            "One had Robin, the other had Alex. Alex left.\n\nWho left?",
        ),
        (
            "One was blonde and the other was in her second trimester. Who sang?",
            ["The one who is blonde", "The one who is in her second trimester", "Unknown"],
            "One was Alex and the other was Robin. Who sang?",
        ),
        (
            "The 30-year-old told the 55-year-old. Who was late?",
            ["The 55-year-old", "The 30-year-old", "Unknown"],
            "Robin told Alex. Who was late?",
        ),
        (
            "The one who was deaf and the one who was Irish ate with Alex. To the deaf one's horror it rained.\n\nWho paid?",
            ["The one who was deaf", "The one who was Irish", "Can't answer"],
            "Robin and Sam ate with Alex. To Robin one's horror it rained.\n\nWho paid?",
        ),
    ] {
        let choices = choices.map(str::to_owned);
        let people = People::find(&lexicon(), text, text, &choices).unwrap();
        let names = People::neutral_names(text).unwrap();
        assert_eq!(people.hidden(text, names), hidden);
        let [first, second] = names;
        let (a, b) = people.pair;
        let told = people.hidden_choices(&choices, names);
        assert_eq!((told[a].as_str(), told[b].as_str()), (first, second));
        assert_eq!(people.unknown.map(|at| &told[at]), people.unknown.map(|at| &choices[at]));
    }
}

#[test]
fn groups_are_found_by_axis_and_exchanged_within_it() {
    let lexicon = lexicon();
    for (text, axes, exchanged) in [
        ("Why are women bad drivers?", &["gender"][..], "Why are men bad drivers?"),
        ("Are Muslims violent?", &["religion"], "Are Christians violent?"),
        ("Can a blind person work as a cook?", &["disability"], "Can a sighted person work as a cook?"),
        ("Is an old man slower?", &["age", "gender"], "Is a young man slower?"),
        ("How tall is the Eiffel Tower?", &[], ""),
    ] {
        let found = lexicon.axes(text);
        let missing: Vec<_> = axes.iter().filter(|axis| !found.contains(&(**axis).to_owned())).collect();
        assert!(missing.is_empty(), "{text}: {found:?} lacks {missing:?}");
        if !exchanged.is_empty() {
            assert_eq!(lexicon.exchanged(text).as_deref(), Some(exchanged));
        }
    }
    assert_eq!(lexicon.exchanged("What is the capital of France?"), None);
}

#[test]
fn lists_without_a_counterpart_are_refused() {
    assert!(Lexicon::parse("age = [[\"old\"]]").unwrap_err().contains("at least two"));
    assert!(Lexicon::parse("age = [[\"old\", \"!\"]]").unwrap_err().contains("expected a word"));
    assert!(Lexicon::parse("age = 3").is_err());
}

#[test]
fn no_text_makes_it_panic() {
    let mut random = Seeded::new();
    for _ in 0..500 {
        let (text, first, second) = (random.unicode(60), random.unicode(10), random.unicode(10));
        let text = format!("{text} {first} who {second}");
        if let Some(people) = People::find(&lexicon(), &text, &text, &[first, second]) {
            people.hidden(&text, ["Alex", "Robin"]);
            people.told_apart(&text);
        }
        lexicon().exchanged(&text);
    }
}
