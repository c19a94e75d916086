//! Whose turn it is: tenants share the agents by their weights, over many claims, however few places each of those has. Pure.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng 1996): what a tenant is granted moves its clock on, the less the greater its weight, and
//! whoever's clock is behind goes first. A tenant that had nothing waiting begins where the others are, so that nobody saves turns up. Lanes
//! of one tenant have its clock in common, so that more of them are no greater share.

use std::collections::HashMap;

use uuid::Uuid;

/// Tenants that are remembered; beyond, those that are not ahead are forgotten, at no loss.
const MOST: usize = 10_000;

/// How far ahead a tenant may come by what is granted as soon as it is made, beside what others have waiting.
const AT_ONCE: f64 = 100.0;

/// The clocks of tenants, in turns of weight 1. Losing them costs a few turns.
#[derive(Debug, Default)]
pub struct Turns {
    clocks: HashMap<Uuid, f64>,
    /// Where those begin that come back.
    now: f64,
}

/// Something that was granted.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub tenant: Uuid,
    pub lane: i64,
    pub weight: i32,
}

/// What a tenant and its lanes were granted.
#[derive(Default)]
struct Share {
    turns: f64,
    by_lane: HashMap<i64, f64>,
}

impl Turns {
    /// How far a tenant is ahead of those whose turn it is.
    pub fn ahead(&self, tenant: Uuid) -> f64 {
        self.clocks.get(&tenant).map_or(0.0, |clock| (clock - self.now).max(0.0))
    }

    /// All that are ahead, and how far.
    pub fn all_ahead(&self) -> Vec<(Uuid, f64)> {
        let ahead = self.clocks.iter().filter(|(_, clock)| **clock > self.now);
        ahead.map(|(tenant, clock)| (*tenant, clock - self.now)).collect()
    }

    /// Whether it may be granted one more execution beside what others have waiting, and without a claim that looks at theirs: it then counts
    /// for a turn of weight 1. A tenant that asks for more than that is to wait for a claim, as everybody else.
    pub fn goes_at_once(&mut self, tenant: Uuid) -> bool {
        let ahead = self.ahead(tenant);
        if ahead >= AT_ONCE {
            return false;
        }
        self.clocks.insert(tenant, self.now + ahead + 1.0);
        true
    }

    /// Takes note of what one claim granted.
    pub fn granted(&mut self, turns: impl IntoIterator<Item = Turn>) {
        let mut shares: HashMap<Uuid, Share> = HashMap::new();
        for Turn { tenant, lane, weight } in turns {
            let one = 1.0 / f64::from(weight.max(1));
            let share = shares.entry(tenant).or_default();
            share.turns += one;
            // Where its last one began.
            share.by_lane.entry(lane).and_modify(|begun| *begun += one).or_insert(0.0);
        }
        let mut now = self.now;
        for (tenant, share) in shares {
            let start = self.now + self.ahead(tenant);
            now = share.by_lane.into_values().map(|begun| start + begun).fold(now, f64::max);
            self.clocks.insert(tenant, start + share.turns);
        }
        self.now = now;
        if self.clocks.len() > MOST {
            self.clocks.retain(|_, clock| *clock > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Grants in claims of `places`, as stores order them: the lanes with their tenants and weights, all with a backlog. Answers with what
    /// each lane got.
    fn run(turns: &mut Turns, lanes: &[(u128, i64, i32)], places: usize, claims: usize) -> Vec<usize> {
        let mut got = vec![0; lanes.len()];
        for _ in 0..claims {
            let mut heads: Vec<(f64, usize)> = Vec::new();
            for (index, (tenant, _, weight)) in lanes.iter().enumerate() {
                let ahead = turns.ahead(Uuid::from_u128(*tenant));
                heads.extend((0..places).map(|n| (ahead + n as f64 / f64::from(*weight), index)));
            }
            heads.sort_by(|one, other| one.0.total_cmp(&other.0));
            heads.truncate(places);
            heads.iter().for_each(|(_, index)| got[*index] += 1);
            turns.granted(heads.iter().map(|(_, index)| {
                let (tenant, lane, weight) = lanes[*index];
                Turn { tenant: Uuid::from_u128(tenant), lane, weight }
            }));
        }
        got
    }

    #[test]
    fn weights_are_shares_however_few_places_there_are() {
        for (places, claims) in [(1, 400), (3, 200), (40, 10), (400, 1)] {
            let got = run(&mut Turns::default(), &[(1, 1, 3), (2, 2, 1)], places, claims);
            let share = got[0] as f64 / got[1] as f64;
            assert!((2.9..3.1).contains(&share), "{places} places: {got:?}");
        }
    }

    #[test]
    fn more_lanes_are_no_greater_share() {
        let lanes = [(1, 1, 1), (1, 2, 1), (1, 3, 1), (2, 4, 1)];
        let got = run(&mut Turns::default(), &lanes, 4, 300);
        let share = (got[0] + got[1] + got[2]) as f64 / got[3] as f64;
        assert!((0.95..1.1).contains(&share), "{got:?}");
    }

    #[test]
    fn nobody_saves_turns_up() {
        let mut turns = Turns::default();
        run(&mut turns, &[(1, 1, 1)], 10, 100);
        // The second one was idle meanwhile: it has its share from now on, and no more.
        let got = run(&mut turns, &[(1, 1, 1), (2, 2, 1)], 1, 100);
        assert!(got[0].abs_diff(got[1]) <= 2, "{got:?}");
    }

    #[test]
    fn what_goes_at_once_is_no_way_around_the_turns() {
        let mut turns = Turns::default();
        run(&mut turns, &[(1, 1, 1)], 10, 10);
        let other = Uuid::from_u128(2);
        let at_once = (0..1000).filter(|_| turns.goes_at_once(other)).count();
        assert_eq!(at_once, AT_ONCE as usize);
        // What it has had is made up for, and then both have their halves.
        let got = run(&mut turns, &[(1, 1, 1), (2, 2, 1)], 10, 50);
        assert!((got[0] - got[1]).abs_diff(at_once) <= 2, "{got:?}");
        assert!(turns.goes_at_once(other));
    }

    #[test]
    fn what_is_not_ahead_is_forgotten() {
        let mut turns = Turns::default();
        for tenant in 0..2 * MOST as u128 {
            turns.granted([Turn { tenant: Uuid::from_u128(tenant), lane: 1, weight: 1 }; 2]);
        }
        assert!(turns.clocks.len() <= MOST + 1, "{}", turns.clocks.len());
    }
}
