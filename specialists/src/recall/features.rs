//! What the re-ranking sees of a turn: numbers that say how well it fits a question, alone and among the turns found with it.
//!
//! Word counts are weighed as in BM25 (Robertson and Zaragoza 2009), with document frequencies of the turns that were found together.

use super::pool::{Pool, Turn};
use super::question::{Asks, DateMatch, Question};
use super::words::Lexicon;

/// BM25's saturation and weight of length: turns are short, and a long one says more.
const K1: f64 = 0.9;
const B: f64 = 0.4;
/// Of reciprocal ranks.
const RANK_OFFSET: f64 = 60.0;
/// Best turns of a session that speak for it.
const SESSION_BEST: usize = 3;
/// Words below which a turn is a short one.
const SHORT: usize = 6;

/// Each feature's name and value, always the same names in the same order.
pub(super) type Row = Vec<(&'static str, f64)>;

/// One row a turn.
pub(super) fn rows(question: &str, turns: &[Turn]) -> Vec<Row> {
    let mut lexicon = Lexicon::new();
    let pool = Pool::read(turns, &mut lexicon);
    let question = Question::read(question, &pool.speakers, &mut lexicon);
    let scores = Scores::of(&question, &pool, turns);
    (0..turns.len()).map(|at| row(at, &question, &pool, &scores, &turns[at])).collect()
}

/// The features' names.
pub(super) fn names() -> Vec<&'static str> {
    rows("?", &[Turn::default()]).remove(0).into_iter().map(|(name, _)| name).collect()
}

/// What is computed for all turns together. BM25 is a share of the most that the question's words could give.
struct Scores {
    /// Of each of the question's words.
    idf: Vec<f64>,
    /// Total of the content words' idf.
    content_idf: f64,
    /// Of all words with the speaker's name, of the content words without, and of three turns read as one.
    whole: Vec<f64>,
    text: Vec<f64>,
    window: Vec<f64>,
    /// Less the mean.
    cosine: Vec<f64>,
    cosine_deviation: f64,
    /// Share of the content words' idf that the turn has.
    covered: Vec<f64>,
    /// The best of each, at least 0.
    whole_best: f64,
    window_best: f64,
    cosine_best: f64,
    whole_rank: Vec<f64>,
    text_rank: Vec<f64>,
    window_rank: Vec<f64>,
    cosine_rank: Vec<f64>,
    whole_session: Sessions,
    cosine_session: Sessions,
}

impl Scores {
    fn of(question: &Question, pool: &Pool, turns: &[Turn]) -> Self {
        let n = turns.len();
        let words = &question.words;
        let content: Vec<bool> = words.iter().map(|word| question.content.contains(word)).collect();
        let text_counts: Vec<Vec<f64>> = pool.passages.iter().map(|passage| counts(words, &passage.words)).collect();
        let whole_counts: Vec<Vec<f64>> = pool
            .passages
            .iter()
            .zip(&text_counts)
            .map(|(passage, text)| text.iter().zip(counts(words, &passage.said_by)).map(|(text, name)| text + name).collect())
            .collect();
        let idf: Vec<f64> = (0..words.len())
            .map(|word| {
                let having = whole_counts.iter().filter(|counts| counts[word] > 0.0).count() as f64;
                (1.0 + (n as f64 - having + 0.5) / (having + 0.5)).ln()
            })
            .collect();
        let total = |of: &dyn Fn(usize) -> bool| (0..words.len()).filter(|word| of(*word)).map(|word| idf[word]).sum::<f64>();
        let (all_idf, content_idf) = (total(&|_| true), total(&|word| content[word]));
        let lengths: Vec<f64> = pool.passages.iter().map(|passage| (passage.words.len() + passage.said_by.len()) as f64).collect();
        let typical = (lengths.iter().sum::<f64>() / n.max(1) as f64).max(1.0);
        let bm25 = |counts: &dyn Fn(usize) -> f64, length: f64, of: &dyn Fn(usize) -> bool| -> f64 {
            let weighed = (0..words.len()).filter(|word| of(*word)).map(|word| {
                let count = counts(word);
                if count > 0.0 { idf[word] * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length)) } else { 0.0 }
            });
            weighed.sum()
        };
        let share = |score: f64, of: f64| if of > 0.0 { score / of } else { 0.0 };
        let whole: Vec<f64> =
            (0..n).map(|at| share(bm25(&|word| whole_counts[at][word], lengths[at] / typical, &|_| true), all_idf)).collect();
        let text: Vec<f64> = (0..n)
            .map(|at| {
                let length = pool.passages[at].words.len() as f64 / typical;
                share(bm25(&|word| text_counts[at][word], length, &|word| content[word]), content_idf)
            })
            .collect();
        let window: Vec<f64> = (0..n)
            .map(|at| {
                let around = || [Some(at), pool.previous[at], pool.next[at]].into_iter().flatten();
                let length = around().map(|at| lengths[at]).sum::<f64>() / (3.0 * typical);
                share(bm25(&|word| around().map(|at| whole_counts[at][word]).sum(), length, &|_| true), all_idf)
            })
            .collect();
        let covered = (0..n).map(|at| share(total(&|word| content[word] && text_counts[at][word] > 0.0), content_idf)).collect();
        let mean = turns.iter().map(|turn| turn.cosine).sum::<f64>() / n.max(1) as f64;
        let cosine: Vec<f64> = turns.iter().map(|turn| turn.cosine - mean).collect();
        let cosine_deviation = (cosine.iter().map(|cosine| cosine * cosine).sum::<f64>() / n.max(1) as f64).sqrt().max(1e-3);
        let best = |scores: &[f64]| scores.iter().copied().fold(0.0, f64::max);
        Self {
            whole_best: best(&whole),
            window_best: best(&window),
            cosine_best: best(&cosine),
            whole_rank: ranks(&whole),
            text_rank: ranks(&text),
            window_rank: ranks(&window),
            cosine_rank: ranks(&cosine),
            whole_session: Sessions::of(&whole, pool),
            cosine_session: Sessions::of(&cosine, pool),
            idf,
            content_idf,
            whole,
            text,
            window,
            cosine,
            cosine_deviation,
            covered,
        }
    }

    /// Share of the content words' idf that stands in `others` and not in `at`.
    fn covered_by(&self, question: &Question, pool: &Pool, at: usize, others: &[Option<usize>]) -> f64 {
        let elsewhere = |word: u32| others.iter().flatten().any(|&other| pool.passages[other].has(word));
        let of = question.words.iter().zip(&self.idf).filter(|(word, _)| question.content.contains(word));
        let sum: f64 = of.filter(|(word, _)| elsewhere(**word) && !pool.passages[at].has(**word)).map(|(_, idf)| idf).sum();
        if self.content_idf > 0.0 { sum / self.content_idf } else { 0.0 }
    }
}

/// How well each turn's session fits: evidence stands together.
struct Sessions {
    best: Vec<f64>,
    mean_of_best: Vec<f64>,
    /// Natural logarithm of one more than the session's place.
    rank: Vec<f64>,
}

impl Sessions {
    fn of(scores: &[f64], pool: &Pool) -> Self {
        let mut members = vec![Vec::new(); pool.session_count];
        for (score, session) in scores.iter().zip(&pool.sessions) {
            members[*session].push(*score);
        }
        members.iter_mut().for_each(|scores| scores.sort_by(|a, b| b.total_cmp(a)));
        let best: Vec<f64> = members.iter().map(|scores| scores.first().copied().unwrap_or(0.0)).collect();
        let mean: Vec<f64> = members.iter().map(|scores| scores.iter().take(SESSION_BEST).sum::<f64>() / SESSION_BEST as f64).collect();
        let ranks = ranks(&mean);
        let each = |of: &[f64]| pool.sessions.iter().map(|session| of[*session]).collect();
        Self { best: each(&best), mean_of_best: each(&mean), rank: each(&ranks.iter().map(|rank| (1.0 + rank).ln()).collect::<Vec<_>>()) }
    }
}

/// How often each of `words` stands in `text`.
fn counts(words: &[u32], text: &[u32]) -> Vec<f64> {
    words.iter().map(|word| text.iter().filter(|other| *other == word).count() as f64).collect()
}

/// Places from 0, best first; of equals the first comes first.
pub(super) fn ranks(scores: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let mut ranks = vec![0.0; scores.len()];
    order.into_iter().enumerate().for_each(|(rank, at)| ranks[at] = rank as f64);
    ranks
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn relative(score: f64, best: f64) -> f64 {
    if best > 0.0 { score / best } else { 0.0 }
}

fn row(at: usize, question: &Question, pool: &Pool, scores: &Scores, turn: &Turn) -> Row {
    let passage = &pool.passages[at];
    let around = |steps: i32, of: &[f64]| pool.away(at, steps).map_or(0.0, |there| of[there]);
    let covered = scores.covered[at];
    let best_idf = question.words.iter().zip(&scores.idf).filter(|(word, _)| question.content.contains(word) && passage.has(**word));
    let pairs = passage.words.windows(2).filter(|pair| question.pairs.contains(&(pair[0], pair[1]))).count();
    let one_named = if let [one] = question.speakers[..] { Some(one) } else { None };
    let two_named = if question.speakers.len() > 1 { question.speakers.first().copied() } else { None };
    let (before, after) = (pool.previous[at], pool.next[at]);
    let asked = |beside: Option<usize>| beside.filter(|&beside| pool.passages[beside].ends_asking);
    let mut row: Row = Vec::with_capacity(96);
    row.extend([
        ("whole", scores.whole[at]),
        ("whole_relative", relative(scores.whole[at], scores.whole_best)),
        ("whole_rank", (1.0 + scores.whole_rank[at]).ln()),
        ("text", scores.text[at]),
        ("text_rank", (1.0 + scores.text_rank[at]).ln()),
        ("window", scores.window[at]),
        ("window_relative", relative(scores.window[at], scores.window_best)),
        ("window_rank", (1.0 + scores.window_rank[at]).ln()),
        ("cosine", turn.cosine),
        ("cosine_relative", scores.cosine[at] - scores.cosine_best),
        ("cosine_deviations", scores.cosine[at] / scores.cosine_deviation),
        ("cosine_rank", (1.0 + scores.cosine_rank[at]).ln()),
        ("fused", RANK_OFFSET / (RANK_OFFSET + scores.whole_rank[at]) + RANK_OFFSET / (RANK_OFFSET + scores.cosine_rank[at])),
        ("text_and_cosine", scores.text[at] * turn.cosine),
    ]);
    row.extend([
        ("text_2_before", around(-2, &scores.text)),
        ("text_before", around(-1, &scores.text)),
        ("text_after", around(1, &scores.text)),
        ("text_2_after", around(2, &scores.text)),
        ("cosine_2_before", around(-2, &scores.cosine)),
        ("cosine_before", around(-1, &scores.cosine)),
        ("cosine_after", around(1, &scores.cosine)),
        ("cosine_2_after", around(2, &scores.cosine)),
        ("covered", covered),
        ("covered_beside", scores.covered_by(question, pool, at, &[before, after])),
        ("covered_before", scores.covered_by(question, pool, at, &[before])),
        ("rarest_word", best_idf.map(|(_, idf)| *idf).fold(0.0, f64::max)),
        ("pairs", pairs as f64),
        ("name_missing", flag(!question.names.is_empty() && !question.names.iter().any(|name| passage.has(*name)))),
    ]);
    row.extend([
        ("speaker_named", flag(one_named.is_some() && passage.speaker == one_named)),
        ("speaker_not_named", flag(one_named.is_some() && passage.speaker != one_named)),
        ("speaker_named_first", flag(two_named.is_some() && passage.speaker == two_named)),
        ("asks", flag(passage.asks)),
        ("ends_asking", flag(passage.ends_asking)),
        ("only_asks", flag(passage.only_asks)),
        ("answers", flag(asked(before).is_some())),
        ("answers_covered", asked(before).map_or(0.0, |before| scores.covered[before])),
        ("asked_next", after.filter(|&after| pool.passages[after].asks).map_or(0.0, |after| scores.covered[after])),
        ("length", (1.0 + passage.length as f64).ln()),
        ("short", flag(passage.length < SHORT)),
        ("first_person", passage.first_person),
        ("second_person", passage.second_person),
        ("tells_time", flag(passage.tells_time)),
        ("tells_number", flag(passage.tells_number)),
        ("tells_names", passage.names.min(2) as f64),
        ("captioned", flag(passage.captioned)),
        ("captioned_and_asked", flag(passage.captioned && question.picture)),
        ("opens_session", flag(before.is_none())),
    ]);
    let date = DateMatch::of(&question.dates, turn.when);
    row.extend([
        ("date_day", date.day),
        ("date_near", date.near),
        ("date_month", date.month),
        ("date_year", date.year),
        ("date_apart", date.apart),
        ("session_whole_best", scores.whole_session.best[at]),
        ("session_whole_mean", scores.whole_session.mean_of_best[at]),
        ("session_whole_rank", scores.whole_session.rank[at]),
        ("session_cosine_mean", scores.cosine_session.mean_of_best[at]),
        ("session_cosine_rank", scores.cosine_session.rank[at]),
        ("question_words", question.content.len() as f64),
        ("question_several", flag(question.several)),
    ]);
    row.extend(by_kind(question.asks, passage.tells_time, passage.names, passage.tells_number));
    row
}

/// What a turn must tell depends on what is asked.
fn by_kind(asks: Asks, time: bool, names: usize, number: bool) -> [(&'static str, f64); 18] {
    let time = |kind| flag(asks == kind && time);
    let names = |kind| flag(asks == kind) * names.min(2) as f64;
    [
        ("when_time", time(Asks::When)),
        ("who_time", time(Asks::Who)),
        ("where_time", time(Asks::Where)),
        ("how_many_time", time(Asks::HowMany)),
        ("how_time", time(Asks::How)),
        ("which_time", time(Asks::Which)),
        ("what_time", time(Asks::What)),
        ("why_time", time(Asks::Why)),
        ("when_names", names(Asks::When)),
        ("who_names", names(Asks::Who)),
        ("where_names", names(Asks::Where)),
        ("how_many_names", names(Asks::HowMany)),
        ("how_names", names(Asks::How)),
        ("which_names", names(Asks::Which)),
        ("what_names", names(Asks::What)),
        ("why_names", names(Asks::Why)),
        ("when_number", flag(asks == Asks::When && number)),
        ("how_many_number", flag(asks == Asks::HowMany && number)),
    ]
}
