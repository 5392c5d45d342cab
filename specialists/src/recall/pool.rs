//! The turns that a search brought together, read once for all features.

use chrono::{DateTime, TimeDelta, Utc};

use super::words::{Lexicon, names, tokens};

/// A longer pause between two turns of a conversation begins another session.
const PAUSE: TimeDelta = TimeDelta::hours(1);

/// A remembered turn, as the stores and the record give it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Turn {
    pub text: String,
    pub speaker: Option<String>,
    /// What a shared picture shows.
    pub caption: Option<String>,
    pub when: Option<DateTime<Utc>>,
    pub conversation: Option<String>,
    /// Cosine similarity of the question's vector and the turn's.
    pub cosine: f64,
    /// Places, in the same list, of the turns before and after it in its conversation, where they are known.
    pub previous: Option<usize>,
    pub next: Option<usize>,
}

const FIRST_PERSON: [&str; 11] = ["i", "im", "ive", "id", "ill", "my", "me", "mine", "we", "our", "us"];
const SECOND_PERSON: [&str; 7] = ["you", "your", "youre", "yours", "youve", "youd", "youll"];
const NUMBER_WORDS: [&str; 16] =
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "once", "twice", "dozen", "couple", "few", "several"];
/// Words that place what is told in time.
const TIME_WORDS: &str = " yesterday today tomorrow tonight week weekend month year ago last next monday tuesday wednesday thursday friday saturday \
    sunday morning evening night soon recently summer winter spring fall autumn day days weeks months years hour hours since birthday january \
    february march april may june july august september october november december ";

/// A turn as the ranking reads it.
#[derive(Debug)]
pub(super) struct Passage {
    /// Words of text and caption.
    pub(super) words: Vec<u32>,
    /// Words of the speaker's name.
    pub(super) said_by: Vec<u32>,
    /// Sorted, each once.
    pub(super) set: Vec<u32>,
    /// Place in the pool's list of speakers.
    pub(super) speaker: Option<usize>,
    pub(super) asks: bool,
    pub(super) ends_asking: bool,
    pub(super) only_asks: bool,
    /// Words, stop words too.
    pub(super) length: usize,
    /// Share of words that speak of oneself, and of the other.
    pub(super) first_person: f64,
    pub(super) second_person: f64,
    pub(super) tells_time: bool,
    pub(super) tells_number: bool,
    /// Words that look like names.
    pub(super) names: usize,
    pub(super) captioned: bool,
}

impl Passage {
    fn read(turn: &Turn, speakers: &[String], lexicon: &mut Lexicon) -> Self {
        let mut words = lexicon.words(&turn.text);
        words.extend(turn.caption.iter().flat_map(|caption| lexicon.words(caption)));
        let said_by = turn.speaker.as_deref().map_or(Vec::new(), |speaker| lexicon.words(speaker));
        let mut set = words.clone();
        set.sort_unstable();
        set.dedup();
        let plain = tokens(&turn.text);
        let share = |of: &[&str]| plain.iter().filter(|word| of.contains(&word.as_str())).count() as f64 / plain.len().max(1) as f64;
        let speaker_words: Vec<String> = speakers.iter().flat_map(|speaker| tokens(speaker)).collect();
        let mut named = names(&turn.text);
        named.retain(|name| !speaker_words.contains(name));
        named.sort_unstable();
        named.dedup();
        let asks = turn.text.contains('?');
        Self {
            words,
            said_by,
            set,
            speaker: turn.speaker.as_ref().and_then(|speaker| speakers.iter().position(|known| known == speaker)),
            asks,
            ends_asking: turn.text.trim_end().ends_with('?'),
            only_asks: asks && !turn.text.contains(['.', '!']),
            length: plain.len(),
            first_person: share(&FIRST_PERSON),
            second_person: share(&SECOND_PERSON),
            tells_time: plain.iter().any(|word| TIME_WORDS.contains(&format!(" {word} "))),
            tells_number: turn.text.contains(|c: char| c.is_ascii_digit())
                || plain.iter().any(|word| NUMBER_WORDS.contains(&word.as_str())),
            names: named.len(),
            captioned: turn.caption.is_some(),
        }
    }

    pub(super) fn has(&self, word: u32) -> bool {
        self.set.binary_search(&word).is_ok()
    }
}

/// All of a search's turns.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) passages: Vec<Passage>,
    pub(super) speakers: Vec<String>,
    /// The turn before and the one after, within a session.
    pub(super) previous: Vec<Option<usize>>,
    pub(super) next: Vec<Option<usize>>,
    /// Number of each turn's session.
    pub(super) sessions: Vec<usize>,
    pub(super) session_count: usize,
}

impl Pool {
    pub(super) fn read(turns: &[Turn], lexicon: &mut Lexicon) -> Self {
        let mut speakers: Vec<String> = turns.iter().filter_map(|turn| turn.speaker.clone()).collect();
        speakers.sort_unstable();
        speakers.dedup();
        let passages = turns.iter().map(|turn| Passage::read(turn, &speakers, lexicon)).collect();
        let beside = |at: usize, other: Option<usize>| other.filter(|&other| turns.get(other).is_some_and(|other| near(&turns[at], other)));
        let (sessions, session_count) = sessions(turns);
        Self {
            passages,
            speakers,
            previous: turns.iter().enumerate().map(|(at, turn)| beside(at, turn.previous)).collect(),
            next: turns.iter().enumerate().map(|(at, turn)| beside(at, turn.next)).collect(),
            sessions,
            session_count,
        }
    }

    /// The turn `steps` places away in the same session, if it is known.
    pub(super) fn away(&self, at: usize, steps: i32) -> Option<usize> {
        let links = if steps < 0 { &self.previous } else { &self.next };
        (0..steps.unsigned_abs()).try_fold(at, |at, _| links.get(at).copied().flatten())
    }
}

/// Whether two turns of a conversation belong to one session.
fn near(a: &Turn, b: &Turn) -> bool {
    a.conversation == b.conversation && a.when.zip(b.when).is_none_or(|(a, b)| (a - b).abs() <= PAUSE)
}

/// Numbers for the sessions: turns of one conversation without a long pause between.
fn sessions(turns: &[Turn]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..turns.len()).collect();
    order.sort_by_key(|&at| (turns[at].conversation.as_deref(), turns[at].when, at));
    let mut numbers = vec![0; turns.len()];
    let mut count = 0;
    let mut last: Option<usize> = None;
    for at in order {
        if !last.is_some_and(|last| near(&turns[last], &turns[at])) {
            count += 1;
        }
        numbers[at] = count - 1;
        last = Some(at);
    }
    (numbers, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(conversation: &str, minute: i64, text: &str) -> Turn {
        Turn {
            text: text.into(),
            speaker: Some("Ada".into()),
            when: DateTime::from_timestamp(minute * 60, 0),
            conversation: Some(conversation.into()),
            ..Turn::default()
        }
    }

    #[test]
    fn a_pause_ends_a_session() {
        let turns = [turn("a", 0, "x"), turn("b", 1, "x"), turn("a", 300, "x"), turn("a", 50, "x"), turn("a", 301, "x")];
        let (numbers, count) = sessions(&turns);
        assert_eq!(count, 3);
        assert_eq!(numbers[0], numbers[3]);
        assert_eq!(numbers[2], numbers[4]);
        assert!(numbers[0] != numbers[1] && numbers[0] != numbers[2]);
    }

    #[test]
    fn links_stay_within_a_session() {
        let mut turns = [turn("a", 0, "x"), turn("a", 1, "x"), turn("a", 200, "x")];
        (turns[0].next, turns[1].previous, turns[1].next, turns[2].previous) = (Some(1), Some(0), Some(2), Some(1));
        turns[2].next = Some(99);
        let pool = Pool::read(&turns, &mut Lexicon::new());
        assert_eq!(
            (pool.away(0, 1), pool.away(1, -1), pool.away(0, 2), pool.away(2, -1), pool.away(2, 1)),
            (Some(1), Some(0), None, None, None)
        );
    }

    #[test]
    fn a_turn_is_read() {
        let told = Turn { caption: Some("a red bicycle".into()), ..turn("a", 0, "I met Anna in Turin last week, Ada! You know her?") };
        let pool = Pool::read(&[told, turn("a", 0, "Who?")], &mut Lexicon::new());
        let [told, asked] = &pool.passages[..] else { panic!("two turns") };
        assert_eq!(told.names, 2, "Anna and Turin, not the speaker");
        assert!(told.asks && told.ends_asking && !told.only_asks && told.tells_time && !told.tells_number && told.captioned);
        assert!(told.first_person > 0.0 && told.second_person > 0.0);
        assert!(asked.only_asks && asked.speaker == Some(0));
    }
}
