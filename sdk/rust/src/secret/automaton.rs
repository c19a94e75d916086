//! Finds many words at once in a stream, byte by byte (Aho and Corasick, 1975), and knows how much of a word the stream ends with: that is
//! what a redactor has to hold back, and what the matchers of libraries do not tell.

use std::collections::{HashMap, VecDeque};

/// Words to find.
pub(super) struct Automaton {
    nodes: Vec<Node>,
    /// Where the root goes by each byte: most of a text stays there.
    root: Vec<u32>,
    /// Further children than a node's first.
    others: HashMap<(u32, u8), u32, foldhash::fast::RandomState>,
}

/// How far a stream has come into the words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State(u32);

#[derive(Default)]
struct Node {
    /// The first child, by its byte; 0 is none.
    byte: u8,
    next: u32,
    /// The longest proper suffix of this node's bytes that begins a word as well.
    fail: u32,
    /// How many bytes lead here.
    depth: u32,
    /// Of those, the most at the end of which a longer word may go on.
    open: u32,
    /// The longest word that ends here, in bytes; 0 is none.
    longest: u32,
}

impl Automaton {
    /// An automaton for words; empty ones are left out.
    pub(super) fn new<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut automaton = Self { nodes: vec![Node::default()], root: vec![0; 256], others: HashMap::default() };
        for word in words {
            automaton.add(word);
        }
        automaton.link();
        automaton
    }

    fn add(&mut self, word: &[u8]) {
        let mut at = 0;
        for byte in word {
            at = match self.child(at, *byte) {
                Some(child) => child,
                None => self.grow(at, *byte),
            };
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            node.longest = node.depth;
        }
    }

    fn grow(&mut self, parent: u32, byte: u8) -> u32 {
        let new = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let depth = self.nodes[parent as usize].depth + 1;
        self.nodes.push(Node { depth, ..Node::default() });
        let node = &mut self.nodes[parent as usize];
        if parent == 0 {
            self.root[usize::from(byte)] = new;
        } else if node.next == 0 {
            (node.byte, node.next) = (byte, new);
        } else {
            self.others.insert((parent, byte), new);
        }
        new
    }

    fn child(&self, parent: u32, byte: u8) -> Option<u32> {
        let node = &self.nodes[parent as usize];
        match parent {
            0 => Some(self.root[usize::from(byte)]).filter(|child| *child != 0),
            _ if node.next != 0 && node.byte == byte => Some(node.next),
            _ if node.next != 0 => self.others.get(&(parent, byte)).copied(),
            _ => None,
        }
    }

    /// Links each node with its longest suffix, breadth first.
    fn link(&mut self) {
        let mut children: HashMap<u32, Vec<(u8, u32)>> = HashMap::new();
        for ((parent, byte), child) in &self.others {
            children.entry(*parent).or_default().push((*byte, *child));
        }
        let mut queue: VecDeque<u32> = self.root.iter().copied().filter(|child| *child != 0).collect();
        while let Some(parent) = queue.pop_front() {
            let node = &self.nodes[parent as usize];
            let (fail, goes_on) = (node.fail, node.next != 0);
            let first = goes_on.then_some((node.byte, node.next));
            let open = if goes_on { node.depth } else { self.nodes[fail as usize].open };
            self.nodes[parent as usize].open = open;
            for (byte, child) in first.into_iter().chain(children.remove(&parent).unwrap_or_default()) {
                let suffix = self.step(State(fail), byte).0;
                let longest = self.nodes[suffix as usize].longest;
                let node = &mut self.nodes[child as usize];
                node.fail = suffix;
                // Its own word is longer than any that is a suffix of it.
                node.longest = node.longest.max(longest);
                queue.push_back(child);
            }
        }
    }

    /// The state after one more byte.
    pub(super) fn step(&self, State(mut at): State, byte: u8) -> State {
        loop {
            match self.child(at, byte) {
                Some(child) => return State(child),
                None if at == 0 => return State(0),
                None => at = self.nodes[at as usize].fail,
            }
        }
    }

    /// The longest end of the stream that begins a word and is not all of it, in bytes.
    pub(super) fn open(&self, state: State) -> usize {
        self.nodes[state.0 as usize].open as usize
    }

    /// The longest word that the stream ends with, in bytes; 0 where it ends with none.
    pub(super) fn longest(&self, state: State) -> usize {
        self.nodes[state.0 as usize].longest as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str], text: &str) -> Vec<(usize, usize)> {
        let automaton = Automaton::new(words.iter().map(|word| word.as_bytes()));
        let mut state = State::default();
        let told = text.bytes().map(|byte| {
            state = automaton.step(state, byte);
            (automaton.open(state), automaton.longest(state))
        });
        told.collect()
    }

    #[test]
    fn it_tells_the_longest_word_and_how_much_of_one_the_text_ends_with() {
        assert_eq!(run(&["abcd", "bc"], "abcx"), [(1, 0), (2, 0), (3, 2), (0, 0)]);
        assert_eq!(run(&["aab"], "aaab"), [(1, 0), (2, 0), (2, 0), (0, 3)]);
        assert_eq!(run(&["he", "she", "his", "hers"], "shers"), [(1, 0), (2, 0), (2, 3), (3, 0), (1, 4)]);
        assert_eq!(run(&[], "ab"), [(0, 0), (0, 0)]);
    }
}
