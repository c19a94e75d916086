use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::*;
use crate::config::Strategy;

fn agent(queues: &[&str], labels: &[(&str, &str)]) -> NewSession {
    NewSession {
        tenant_id: None,
        agent_id: None,
        name: String::new(),
        version: String::new(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
        executors: vec!["http".into()],
        slots: 4,
        coordinator_id: Uuid::nil(),
        address: String::new(),
    }
}

fn lane(id: i64, queue: &str, selector: &[(&str, &str)]) -> Lane {
    let selector = selector.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Lane { id, tenant_id: Uuid::from_u128(1), queue: queue.into(), executor: "http".into(), selector }
}

/// A pool with one lane and these agents: slots, running.
fn pool(strategy: Strategy, agents: &[(u128, usize, usize)]) -> (Pool, BTreeMap<Uuid, Load>) {
    let mut pool = Pool::new(strategy);
    pool.learn(lane(1, "default", &[]));
    let mut loads = BTreeMap::new();
    for (id, slots, running) in agents {
        let (id, load) = (Uuid::from_u128(*id), Load { slots: *slots, running: *running, credits: slots - running });
        pool.join(id, Arc::new(agent(&["default"], &[])));
        pool.set(id, Some(load));
        loads.insert(id, load);
    }
    (pool, loads)
}

/// Gives executions of a lane out, as whoever asks the pool does.
fn give(pool: &mut Pool, loads: &mut BTreeMap<Uuid, Load>, lane: i64) -> Option<u128> {
    let id = pool.choose(lane)?;
    let load = loads.get_mut(&id).unwrap();
    load.running += 1;
    load.credits -= 1;
    pool.set(id, Some(*load));
    Some(id.as_u128())
}

#[test]
fn least_loaded_looks_at_shares_of_slots() {
    let (mut pool, mut loads) = pool(Strategy::LeastLoaded, &[(1, 10, 5), (2, 4, 0)]);
    let given: Vec<_> = (0..5).filter_map(|_| give(&mut pool, &mut loads, 1)).collect();
    let to_small = given.iter().filter(|id| **id == 2).count();
    assert_eq!((given.len(), to_small), (5, 3), "{given:?}");
}

#[test]
fn round_robin_takes_turns_and_nobody_gets_more_than_it_takes() {
    let (mut pool, mut loads) = pool(Strategy::RoundRobin, &[(1, 1, 0), (2, 2, 0)]);
    let given: Vec<_> = (0..4).map(|_| give(&mut pool, &mut loads, 1)).collect();
    assert_eq!(given, [Some(1), Some(2), Some(2), None]);
    assert_eq!((pool.credits(), pool.open_lanes()), (0, vec![]));
}

#[test]
fn labels_that_nobody_asks_for_tell_no_agents_apart() {
    let mut pool = Pool::new(Strategy::LeastLoaded);
    let load = Load { slots: 1, running: 0, credits: 1 };
    for n in 0..100_u128 {
        let host = n.to_string();
        let zone = if n == 7 { "us" } else { "eu" };
        pool.join(Uuid::from_u128(n), Arc::new(agent(&["default"], &[("host", host.as_str()), ("zone", zone)])));
        pool.set(Uuid::from_u128(n), Some(load));
    }
    pool.learn(lane(1, "default", &[]));
    assert_eq!((pool.kinds.len(), pool.credits()), (1, 100));
    pool.learn(lane(2, "default", &[("zone", "us")]));
    assert_eq!((pool.kinds.len(), pool.credits()), (2, 100));
    assert_eq!(pool.choose(2), Some(Uuid::from_u128(7)));
    for n in 0..100 {
        pool.leave(Uuid::from_u128(n));
    }
    let served = |pool: &Pool| pool.lanes.values().map(|served| served.by.len()).sum::<usize>();
    assert_eq!((pool.kinds.len(), pool.numbers.len(), pool.credits(), served(&pool)), (0, 0, 0, 0), "nothing is left");
}

/// What happens to a pool.
#[derive(Clone, Debug)]
enum Step {
    Join { id: u128, queues: usize, labels: usize },
    Leave(u128),
    Set { id: u128, slots: usize, running: usize, credits: usize },
    Learn { id: i64, queue: usize, selector: usize },
    Choose(i64),
}

const QUEUES: [&[&str]; 3] = [&["default"], &["default", "mail"], &["mail"]];
const LABELS: [&[(&str, &str)]; 4] =
    [&[], &[("zone", "eu"), ("host", "x")], &[("zone", "us")], &[("zone", "eu"), ("disk", "ssd")]];
const SELECTORS: [&[(&str, &str)]; 3] = [&[], &[("zone", "eu")], &[("disk", "ssd")]];

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let id = || 1_u128..6;
    prop_oneof![
        2 => (id(), 0_usize..3, 0_usize..4).prop_map(|(id, queues, labels)| Step::Join { id, queues, labels }),
        1 => id().prop_map(Step::Leave),
        4 => (id(), 1_usize..5, 0_usize..4, 0_usize..4)
            .prop_map(|(id, slots, running, credits)| Step::Set { id, slots, running, credits }),
        2 => (1_i64..5, 0_usize..2, 0_usize..3).prop_map(|(id, queue, selector)| Step::Learn { id, queue, selector }),
        6 => (1_i64..5).prop_map(Step::Choose),
    ]
}

/// The same without any order or index: a look at every agent.
#[derive(Default)]
struct Scan {
    agents: BTreeMap<Uuid, (NewSession, Load)>,
    lanes: BTreeMap<i64, Lane>,
    last: Uuid,
}

impl Scan {
    fn fitting(&self, lane: &Lane) -> Vec<(Uuid, Load)> {
        let fits = |agent: &NewSession, load: &Load| load.credits > 0 && Kind::of(agent, |_| true).fits(lane);
        self.agents.iter().filter(|(_, (agent, load))| fits(agent, load)).map(|(id, (_, load))| (*id, *load)).collect()
    }

    fn choose(&mut self, lane: i64, strategy: Strategy) -> Option<Uuid> {
        let fitting = self.fitting(self.lanes.get(&lane)?);
        let chosen = match strategy {
            Strategy::LeastLoaded => fitting.iter().min_by(|(_, a), (_, b)| {
                let shares = (a.running * b.slots).cmp(&(b.running * a.slots));
                shares.then(b.credits.cmp(&a.credits))
            }),
            Strategy::RoundRobin => fitting.iter().find(|(id, _)| *id > self.last).or_else(|| fitting.first()),
        };
        self.last = chosen.map_or(self.last, |(id, _)| *id);
        chosen.map(|(id, _)| *id)
    }
}

proptest! {
    #[test]
    fn the_one_that_a_look_at_everybody_would_choose_is_chosen(
        steps in proptest::collection::vec(step(), 1..80),
        turns in proptest::bool::ANY,
    ) {
        let strategy = if turns { Strategy::RoundRobin } else { Strategy::LeastLoaded };
        let (mut pool, mut scan) = (Pool::new(strategy), Scan::default());
        for step in steps {
            match step {
                Step::Join { id, queues, labels } => {
                    let (id, agent) = (Uuid::from_u128(id), agent(QUEUES[queues], LABELS[labels]));
                    pool.join(id, Arc::new(agent.clone()));
                    scan.agents.insert(id, (agent, Load { slots: 1, running: 0, credits: 0 }));
                }
                Step::Leave(id) => {
                    pool.leave(Uuid::from_u128(id));
                    scan.agents.remove(&Uuid::from_u128(id));
                }
                Step::Set { id, slots, running, credits } => {
                    let (id, load) = (Uuid::from_u128(id), Load { slots, running, credits });
                    pool.set(id, Some(load));
                    if let Some((_, its)) = scan.agents.get_mut(&id) {
                        *its = load;
                    }
                }
                Step::Learn { id, queue, selector } => {
                    let lane = lane(id, ["default", "mail"][queue], SELECTORS[selector]);
                    pool.learn(lane.clone());
                    scan.lanes.entry(id).or_insert(lane);
                }
                Step::Choose(lane) => prop_assert_eq!(pool.choose(lane), scan.choose(lane, strategy)),
            }
            let open = scan.lanes.values().filter(|lane| !scan.fitting(lane).is_empty()).map(|lane| lane.id);
            prop_assert_eq!(pool.open_lanes(), open.collect::<Vec<_>>());
            let credits = scan.agents.values().map(|(_, load)| load.credits).sum::<usize>();
            prop_assert_eq!(pool.credits(), credits);
        }
    }
}
