//! What a process prints, line by line as it comes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::ops::Index;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines read so far, and more to come until the other end closes.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<Seen>, Condvar)>);

#[derive(Default)]
struct Seen {
    lines: Vec<String>,
    closed: bool,
}

impl Lines {
    /// Reads `from` in a thread until it closes.
    pub fn of(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let filled = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(from).lines().map_while(Result::ok) {
                filled.change(|read| read.lines.push(line));
            }
            filled.change(|read| read.closed = true);
        });
        lines
    }

    /// No lines, and none to come.
    pub fn none() -> Self {
        let none = Self::default();
        none.change(|read| read.closed = true);
        none
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// All lines so far.
    pub fn so_far(&self) -> Vec<String> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// How many lines there are so far.
    pub fn len(&self) -> usize {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.len()
    }

    /// All lines, once the other end has closed.
    pub fn to_the_end(&self, patience: Duration) -> Vec<String> {
        let none: Option<()> = self.find(patience, |_| None);
        assert_eq!(none, None);
        self.so_far()
    }

    /// What `wanted` makes of the first line that it takes; `None` when there is none before the
    /// other end closes or patience ends.
    pub fn find<T>(&self, patience: Duration, wanted: impl FnMut(&str) -> Option<T>) -> Option<T> {
        self.find_after(0, patience, wanted)
    }

    /// The same without the first lines, `seen` of them.
    pub fn find_after<T>(
        &self,
        mut seen: usize,
        patience: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let begun = Instant::now();
        let mut read = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            for line in &read.lines[seen..] {
                if let Some(found) = wanted(line) {
                    return Some(found);
                }
            }
            seen = read.lines.len();
            let left = patience.saturating_sub(begun.elapsed());
            if read.closed || left.is_zero() {
                return None;
            }
            read = self.0.1.wait_timeout(read, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// One line of the access log in text form: `time access key=value ...`.
#[derive(Clone, Debug)]
pub struct Access(HashMap<String, String>);

impl Access {
    /// Parses a line.
    pub fn parse(line: &str) -> Self {
        let (time, rest) = line.split_once(" access ").unwrap_or_else(|| panic!("{line:?}"));
        let pairs = rest.split(' ').map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or_else(|| panic!("{pair:?}: {line:?}"));
            (key.to_owned(), value.to_owned())
        });
        Self(pairs.chain([("time".to_owned(), time.to_owned())]).collect())
    }

    /// A value that is a number.
    pub fn number(&self, key: &str) -> f64 {
        self[key].parse().unwrap_or_else(|_| panic!("{key}={:?} is no number", &self[key]))
    }
}

impl Index<&str> for Access {
    type Output = str;

    fn index(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }
}
