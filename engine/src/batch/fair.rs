//! Fair scheduling: a virtual token counter per client (VTC, Sheng et al. 2024, "Fairness in
//! Serving Large Language Models").

use std::collections::{BTreeMap, VecDeque};

/// Cost of a generated token, in prompt tokens.
const GENERATED: u64 = 2;

/// The owner of a job: an API key's name, and the id of the adapter.
pub(super) type Client = (String, Option<String>);

/// Waiting jobs by client. The next job is the oldest of the client that has been served least; a
/// client that returns after a pause starts at the lowest counter of the active clients, so that
/// idle time earns no credit.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    clients: BTreeMap<Client, Lane<T>>,
    waiting: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct Lane<T> {
    /// Jobs with their arrival numbers over all clients.
    queue: VecDeque<(u64, T)>,
    /// Tokens served, weighted.
    served: u64,
    running: usize,
}

impl<T> FairQueue<T> {
    pub(super) fn new() -> Self {
        Self { clients: BTreeMap::new(), waiting: 0, arrivals: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    pub(super) fn push(&mut self, client: Client, work: T) {
        // idle clients are removed, so the minimum is over active clients
        let level = self.clients.values().map(|lane| lane.served).min().unwrap_or(0);
        let lane = self.clients.entry(client).or_insert_with(|| Lane {
            queue: VecDeque::new(),
            served: level,
            running: 0,
        });
        lane.queue.push_back((self.arrivals, work));
        self.arrivals += 1;
        self.waiting += 1;
    }

    /// The next job; its client counts as running until [`done`](Self::done).
    pub(super) fn pop(&mut self) -> Option<(Client, T)> {
        let first = |lane: &Lane<T>| lane.queue.front().map(|(arrival, _)| *arrival);
        let waiting = self.clients.iter_mut().filter_map(|(client, lane)| {
            first(lane).map(|arrival| ((lane.served, arrival), client, lane))
        });
        let (_, client, lane) = waiting.min_by_key(|(order, ..)| *order)?;
        let (_, work) = lane.queue.pop_front()?;
        lane.running += 1;
        self.waiting -= 1;
        Some((client.clone(), work))
    }

    /// Charges a client for tokens served.
    pub(super) fn charge(&mut self, client: &Client, prompt: usize, generated: usize) {
        if let Some(lane) = self.clients.get_mut(client) {
            lane.served += prompt as u64 + GENERATED * generated as u64;
        }
    }

    /// Marks one of a client's running jobs as ended.
    pub(super) fn done(&mut self, client: &Client) {
        if let Some(lane) = self.clients.get_mut(client) {
            lane.running = lane.running.saturating_sub(1);
            if lane.running == 0 && lane.queue.is_empty() {
                self.clients.remove(client);
            }
        }
    }

    /// Removes the jobs for which `ended` is true, in order of arrival.
    pub(super) fn remove_if(&mut self, mut ended: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        self.clients.retain(|_, lane| {
            for _ in 0..lane.queue.len() {
                match lane.queue.pop_front() {
                    Some((arrival, work)) if ended(&work) => removed.push((arrival, work)),
                    Some(stays) => lane.queue.push_back(stays),
                    None => {}
                }
            }
            lane.running > 0 || !lane.queue.is_empty()
        });
        self.waiting -= removed.len();
        removed.sort_by_key(|(arrival, _)| *arrival);
        removed.into_iter().map(|(_, work)| work).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str, adapter: Option<&str>) -> Client {
        (name.into(), adapter.map(str::to_owned))
    }

    #[test]
    fn a_client_with_much_to_do_does_not_keep_others_waiting() {
        let mut queue = FairQueue::new();
        let (busy, quiet) = (client("busy", None), client("quiet", None));
        (0..100).for_each(|number| queue.push(busy.clone(), number));
        let mut served = Vec::new();
        for turn in 0..20 {
            if turn == 10 {
                (100..105).for_each(|number| queue.push(quiet.clone(), number));
            }
            let (whose, number) = queue.pop().unwrap();
            queue.charge(&whose, 10, 20);
            served.push((whose.0.clone(), number));
            queue.done(&whose);
        }
        // served alternately from its arrival on: not after the ninety queued before it, and
        // without credit for the time it was idle
        let of_quiet: Vec<usize> = (0..20).filter(|&turn| served[turn].0 == "quiet").collect();
        assert_eq!(of_quiet.len(), 5);
        assert!(of_quiet.windows(2).all(|pair| pair[1] - pair[0] == 2), "{of_quiet:?}");
        assert_eq!(queue.len(), 85);
    }

    #[test]
    fn tokens_count_not_requests() {
        let mut queue = FairQueue::new();
        let (long, short) = (client("k", Some("long")), client("k", Some("short")));
        (0..40).for_each(|number| queue.push(long.clone(), number));
        (0..40).for_each(|number| queue.push(short.clone(), number));
        let (mut of_long, mut of_short) = (0, 0);
        for _ in 0..30 {
            let (whose, _) = queue.pop().unwrap();
            let tokens = if whose == long { 90 } else { 10 };
            queue.charge(&whose, 0, tokens);
            *(if whose == long { &mut of_long } else { &mut of_short }) += tokens;
            queue.done(&whose);
        }
        assert!((of_long as f64 / of_short as f64 - 1.0).abs() < 0.4, "{of_long} and {of_short}");
    }

    #[test]
    fn what_ends_while_it_waits_is_taken_out_in_order_and_idle_clients_are_forgotten() {
        let mut queue = FairQueue::new();
        for number in 0..6 {
            queue.push(client(if number % 2 == 0 { "b" } else { "a" }, None), number);
        }
        assert_eq!(queue.remove_if(|number| *number != 3), [0, 1, 2, 4, 5]);
        assert_eq!(queue.clients.len(), 1);
        let (whose, number) = queue.pop().unwrap();
        assert_eq!((number, queue.is_empty(), queue.len()), (3, true, 0));
        queue.done(&whose);
        assert!(queue.clients.is_empty() && queue.pop().is_none());
    }
}
