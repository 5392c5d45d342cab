//! Recall through the keeper, with the re-ranking that comes with Nyx.

use nyx_specialists::learn::LearnedFile;
use nyx_specialists::recall::{RecallRanker, SHIPPED};

use super::*;
use crate::learned::{Learned, Origin};

fn shipped() -> Ranking {
    let value: RecallRanker = LearnedFile::parse(SHIPPED).unwrap().parameters;
    Ranking { options: RecallOptions::default(), ranker: Some(Arc::new(Learned { value, id: "shipped".into(), origin: Origin::Record })) }
}

const TALK: [(&str, &str); 10] = [
    ("Ada", "Hi Ben! It has been a while, how was your summer?"),
    ("Ben", "Busy! I started pottery classes and I love it."),
    ("Ada", "Wow. What did you make first?"),
    ("Ben", "A blue bowl with a fish on it."),
    ("Ada", "Lovely! I adopted a kitten last Friday, her name is Pepper."),
    ("Ben", "How sweet! Is she playful?"),
    ("Ada", "Very. She knocked over two plants already."),
    ("Ben", "My brother Carl moved to Oslo for his new job at the harbour."),
    ("Ada", "I hope that he likes the cold."),
    ("Ben", "He does, and he goes skiing every weekend."),
];

async fn told(folder: &Path) -> MemoryParts {
    let mut parts = parts(folder).await;
    parts.ranking = shipped();
    let when = "2026-09-12T10:00:00Z".parse().ok();
    let turn = |(speaker, text): (&str, &str)| NewMemory {
        text: text.into(),
        speaker: Some(speaker.into()),
        when,
        conversation: Some("talk".into()),
        caption: None,
    };
    parts.remember(context(), TALK.into_iter().map(turn).collect()).await.unwrap();
    parts
}

#[actix::test]
async fn what_answers_comes_first_with_the_turns_around_it() {
    let folder = tempfile::tempdir().unwrap();
    let parts = told(folder.path()).await;
    for (question, answer) in
        [("When did Ada adopt her kitten?", 4), ("What classes did Ben start?", 1), ("Where did Ben's brother Carl move?", 7)]
    {
        let found = parts.recall(ask(question, 3)).await.unwrap();
        assert_eq!(found[0].memory.text, TALK[answer].1, "{question}: {found:?}");
        assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score), "{found:?}");
        assert!(found.iter().all(|hit| hit.probability.is_some_and(|p| (p as f32 - hit.score).abs() < 1e-6)), "{found:?}");
        let texts = |memories: &[Memory]| memories.iter().map(|memory| memory.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&found[0].beside.before), [TALK[answer - 1].1]);
        assert_eq!(texts(&found[0].beside.after), [TALK[answer + 1].1]);
    }
    let answered = parts.recall(ask("What did Ben make first in pottery?", 10)).await.unwrap();
    let bowl = answered.iter().find(|hit| hit.memory.text == TALK[3].1).unwrap();
    assert_eq!(bowl.exchange(), ["Ada: Wow. What did you make first?"]);
}

#[actix::test]
async fn what_fits_nothing_is_less_probable() {
    let folder = tempfile::tempdir().unwrap();
    let parts = told(folder.path()).await;
    let best = async |question: &str| parts.recall(ask(question, 1)).await.unwrap()[0].score;
    let (fits, nothing) = (best("When did Ada adopt her kitten?").await, best("Which airline lost the suitcase?").await);
    assert!(fits > 5.0 * nothing, "{fits} and {nothing}");
    let least = Recall { min_score: (fits + nothing) / 2.0, ..ask("Which airline lost the suitcase?", 5) };
    assert_eq!(parts.recall(least).await.unwrap(), []);
}

#[actix::test]
async fn a_filter_holds_for_neighbours_too() {
    let folder = tempfile::tempdir().unwrap();
    let parts = told(folder.path()).await;
    let filter = MemoryFilter { speaker: Some("Ben".into()), ..MemoryFilter::default() };
    let found = parts.recall(Recall { filter, ..ask("What about the kitten Pepper?", 10) }).await.unwrap();
    assert!(found.len() == 5 && found.iter().all(|hit| hit.memory.speaker.as_deref() == Some("Ben")), "{found:?}");
}

#[actix::test]
async fn neighbours_are_candidates_only_where_they_can_be_ranked() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = told(folder.path()).await;
    (parts.ranking.options.dense, parts.ranking.options.lexical) = (1, 1);
    let question = "When did Ada adopt her kitten?";
    let candidates = parts.candidates(question, &MemoryFilter::default()).await.unwrap();
    assert_eq!(candidates.len(), 5, "the turn and two on either side: {candidates:?}");
    let at = candidates.iter().position(|candidate| candidate.memory.text == TALK[4].1).unwrap();
    let text = |at: Option<usize>| at.map(|at| candidates[at].memory.text.as_str());
    assert_eq!((text(candidates[at].turn.previous), text(candidates[at].turn.next)), (Some(TALK[3].1), Some(TALK[5].1)));
    assert!(candidates.iter().all(|candidate| candidate.turn.cosine <= candidates[at].turn.cosine));
    assert_eq!(parts.recall(ask(question, 10)).await.unwrap().len(), 5);
    parts.ranking.options.rerank = false;
    let found = parts.recall(ask(question, 10)).await.unwrap();
    assert_eq!((found.len(), found[0].memory.text.as_str(), found[0].probability), (1, TALK[4].1, None));
    assert!(found[0].fused > 0.0 && found[0].lexical.is_some_and(|score| score > 0.0), "{found:?}");
}
