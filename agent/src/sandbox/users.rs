use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

/// Users that no package and no other program hands out; see "Users, Groups, UIDs and GIDs on systemd Systems", which leaves these alone.
pub(super) const UNUSED: RangeInclusive<u32> = 60578..=61183;

/// Users for processes, one each at a time, so that none can signal, trace or read another. Their groups have the same numbers.
#[derive(Clone, Debug)]
pub(super) struct Users {
    /// Those that have been free for longest come first.
    free: Arc<Mutex<VecDeque<u32>>>,
    all: RangeInclusive<u32>,
}

/// A user that belongs to one execution. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct User {
    pub(super) id: u32,
    free: Arc<Mutex<VecDeque<u32>>>,
}

impl Users {
    /// Begins somewhere in the range, so that agents on one host, or one that is started again, seldom come upon the same user.
    pub(super) fn new(all: RangeInclusive<u32>) -> Self {
        let mut free: VecDeque<u32> = all.clone().collect();
        let somewhere = uuid::Uuid::new_v4().as_u128() % (free.len().max(1) as u128);
        free.rotate_left(usize::try_from(somewhere).unwrap_or(0));
        Self { free: Arc::new(Mutex::new(free)), all }
    }

    /// A user that nobody else has.
    ///
    /// # Errors
    /// Where all are taken.
    pub(super) fn take(&self) -> Result<User, String> {
        let taken = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let id = taken.ok_or_else(|| {
            let (first, last) = (self.all.start(), self.all.end());
            format!("all users from {first} to {last} are taken; give the agent a wider range by --sandbox-users")
        })?;
        Ok(User { id, free: self.free.clone() })
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_the_same_user_and_the_last_comes_last() {
        let users = Users::new(7..=8);
        let (first, second) = (users.take().expect("a user"), users.take().expect("a user"));
        assert_eq!((first.id + second.id, first.id == second.id), (15, false));
        let last = first.id;
        assert!(users.take().is_err_and(|message| message.contains("from 7 to 8 are taken")));
        drop(second);
        drop(first);
        assert_ne!(users.take().expect("a user").id, last);
    }
}
