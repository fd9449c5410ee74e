use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    max: 3,
    idle_timeout: Duration::from_secs(10),
    max_lifetime: Duration::from_secs(100),
};

fn at(secs: u64) -> Time {
    Time::ZERO + Duration::from_secs(secs)
}

/// A book with `names` idle since the moment 0, in that order, never used.
fn book_of(names: &[char]) -> Book<char> {
    let mut book = Book::new();
    let places: Vec<_> = names.iter().filter_map(|_| book.open(at(0), &LIMITS, 0)).collect();
    for (place, name) in places.into_iter().zip(names) {
        assert_eq!(book.put(at(0), &LIMITS, place, *name, false), Ok(at(10)));
    }
    book
}

/// What `take` gives, and what it says to close.
fn take(book: &mut Book<char>, now: Time, limits: &Limits) -> (Option<(char, Place)>, Vec<char>) {
    let mut retired = Vec::new();
    (book.take(now, limits, |_, _| true, &mut retired), retired)
}

#[test]
fn the_newest_is_taken_first_and_the_oldest_evicted_first() {
    let mut book = book_of(&['a', 'b', 'c']);
    let (taken, retired) = take(&mut book, at(1), &LIMITS);
    assert!(matches!(taken, Some(('c', _))) && retired.is_empty());
    assert_eq!(book.evict_oldest(), Some('a'));
    assert_eq!((book.idle(), book.out()), (1, 1));
}

#[test]
fn there_are_places_up_to_the_limit_and_a_freed_one_is_given_again() {
    let mut book = Book::<char>::new();
    let mut places: Vec<_> = (0..3).filter_map(|_| book.open(at(0), &LIMITS, 0)).collect();
    assert!(book.open(at(0), &LIMITS, 0).is_none());
    book.free(places.remove(0));
    assert!(book.open(at(0), &LIMITS, 0).is_some());
    assert!(Book::<char>::new().open(at(0), &Limits { max: 0, ..LIMITS }, 0).is_none());
}

#[test]
fn one_that_is_not_usable_is_passed_over_and_the_check_is_told_whether_it_was_used() {
    let mut book = book_of(&['a', 'b']);
    let (taken, _) = take(&mut book, at(0), &LIMITS);
    let (name, place) = taken.unwrap();
    book.put(at(1), &LIMITS, place, name, true).unwrap();
    // Given back once more without having been used again: used it stays.
    let (name, place) = take(&mut book, at(1), &LIMITS).0.unwrap();
    book.put(at(1), &LIMITS, place, name, false).unwrap();
    let (mut asked, mut retired) = (Vec::new(), Vec::new());
    let check = |name: &char, used: bool| {
        asked.push((*name, used));
        !used
    };
    let taken = book.take(at(2), &LIMITS, check, &mut retired);
    assert!(matches!(taken, Some(('a', _))));
    assert_eq!((asked, retired), (vec![('b', true), ('a', false)], vec!['b']));
}

#[test]
fn idle_ones_go_at_the_idle_timeout_and_not_before() {
    let mut book = book_of(&['a']);
    let mut retired = Vec::new();
    assert_eq!(book.next_expiry(&LIMITS), Some(at(10)));
    book.expire(Time::from_nanos(at(10).nanos() - 1), &LIMITS, &mut retired);
    assert!(retired.is_empty());
    book.expire(at(10), &LIMITS, &mut retired);
    assert_eq!(retired, ['a']);
    assert!(book.is_empty() && book.next_expiry(&LIMITS).is_none());
    let (taken, retired) = take(&mut book_of(&['a', 'b']), at(10), &LIMITS);
    assert!(taken.is_none());
    assert_eq!(retired, ['b', 'a']);
}

#[test]
fn the_lifetime_is_shortened_by_a_fifth_at_most() {
    for (random, secs) in [(0, 100..=100), (u16::MAX / 2, 90..=91), (u16::MAX, 80..=81)] {
        let place = Book::<char>::new().open(at(0), &LIMITS, random).unwrap();
        let dies = place.dies(&LIMITS).since(at(0));
        assert!(dies >= SECOND * *secs.start() && dies <= SECOND * *secs.end(), "{dies:?}");
    }
    let forever = Limits { max_lifetime: Duration::MAX, idle_timeout: Duration::MAX, ..LIMITS };
    let place = Book::<char>::new().open(at(5), &forever, u16::MAX).unwrap();
    assert_eq!(place.dies(&forever), Time::from_nanos(u64::MAX));
}

#[test]
fn one_that_has_lived_long_enough_is_not_taken_back() {
    let mut book = Book::new();
    let place = book.open(at(0), &LIMITS, 0).unwrap();
    assert_eq!(book.put(at(100), &LIMITS, place, 'a', true), Err('a'));
    assert!(book.is_empty());
}

#[test]
fn a_lifetime_that_shrinks_counts_for_those_that_are_there() {
    let mut book = book_of(&['a']);
    let mut retired = Vec::new();
    book.expire(at(2), &Limits { max_lifetime: SECOND, ..LIMITS }, &mut retired);
    assert_eq!(retired, ['a']);
}

#[test]
fn when_the_limit_shrinks_the_oldest_idle_go_and_no_more_are_made() {
    let mut book = book_of(&['a', 'b', 'c']);
    let two = Limits { max: 2, ..LIMITS };
    let (taken, retired) = take(&mut book, at(1), &two);
    assert_eq!(retired, ['a']);
    let (name, place) = taken.unwrap();
    let none = Limits { max: 0, ..LIMITS };
    assert!(book.open(at(1), &none, 0).is_none());
    assert_eq!(book.put(at(1), &none, place, name, true), Err('c'));
    let mut retired = Vec::new();
    book.expire(at(1), &none, &mut retired);
    assert_eq!(retired, ['b']);
    assert!(book.is_empty());
}

#[test]
fn a_dead_one_is_found_wherever_it_stands_and_all_can_be_had_at_once() {
    let mut book = book_of(&['a', 'b', 'c']);
    assert_eq!(book.discard(|name| *name == 'b'), Some('b'));
    assert_eq!(book.discard(|name| *name == 'b'), None);
    assert_eq!(book.drain().collect::<Vec<_>>(), ['a', 'c']);
    assert!(book.is_empty());
}

/// What the reference knows of a connection; times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    name: u32,
    dies: u64,
    since: u64,
    used: bool,
}

/// The reference: plain lists.
#[derive(Default)]
struct Lists {
    idle: Vec<Known>,
    out: Vec<Known>,
    max: usize,
    now: u64,
}

impl Lists {
    fn total(&self) -> usize {
        self.idle.len() + self.out.len()
    }

    fn is_over(&self, known: Known) -> bool {
        self.now >= known.dies || self.now >= known.since + 10
    }

    /// Removes what `goes` says, in order.
    fn split(&mut self, goes: impl Fn(&Self, Known) -> bool) -> Vec<u32> {
        let idle = std::mem::take(&mut self.idle);
        let (gone, kept): (Vec<_>, Vec<_>) = idle.into_iter().partition(|known| goes(self, *known));
        self.idle = kept;
        gone.iter().map(|known| known.name).collect()
    }

    fn trim(&mut self) -> Vec<u32> {
        let surplus = self.total().saturating_sub(self.max).min(self.idle.len());
        self.idle.drain(..surplus).map(|known| known.name).collect()
    }

    fn take(&mut self, bad: u32) -> (Option<Known>, Vec<u32>) {
        let mut retired = self.trim();
        while let Some(newest) = self.idle.pop() {
            if !self.is_over(newest) && !newest.name.is_multiple_of(bad) {
                self.out.push(newest);
                return (Some(newest), retired);
            }
            retired.push(newest.name);
        }
        (None, retired)
    }
}

/// The book, the reference, and the places of those that are out (in the reference's order).
struct Both {
    book: Book<u32>,
    lists: Lists,
    places: Vec<Place>,
    limits: Limits,
    names: u32,
}

#[derive(Clone, Debug)]
enum Step {
    /// With the full lifetime, or one shortened by half of what is possible.
    Open(bool),
    Fail(usize),
    Put(usize, bool),
    /// Every connection whose name is a multiple of this is not usable.
    Take(u32),
    Expire,
    Discard(u32),
    Evict,
    Drain,
    Wait(u64),
    Max(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(Step::Open),
        1 => any::<usize>().prop_map(Step::Fail),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, used)| Step::Put(which, used)),
        3 => (2..9_u32).prop_map(Step::Take),
        1 => Just(Step::Expire),
        1 => (0..20_u32).prop_map(Step::Discard),
        1 => Just(Step::Evict),
        1 => Just(Step::Drain),
        3 => (0..12_u64).prop_map(Step::Wait),
        1 => (40..60_u64).prop_map(Step::Wait),
        1 => (0..6_usize).prop_map(Step::Max),
    ]
}

impl Both {
    fn new() -> Self {
        let lists = Lists { max: LIMITS.max, ..Lists::default() };
        Self { book: Book::new(), lists, places: Vec::new(), limits: LIMITS, names: 0 }
    }

    /// Does the step in both, and says what each gave and told to close.
    fn step(&mut self, step: &Step) -> [(Option<u32>, Vec<u32>); 2] {
        let (now, out) = (at(self.lists.now), self.places.len());
        let (book, lists) = (&mut self.book, &mut self.lists);
        let mut retired = Vec::new();
        match *step {
            Step::Open(jittered) => {
                self.names += 1;
                // The shortened lifetime ends a little after 90 seconds.
                let dies = lists.now + if jittered { 91 } else { 100 };
                let known = Known { name: self.names, dies, since: 0, used: false };
                let room = (lists.total() < lists.max).then_some(known.name);
                lists.out.extend(room.map(|_| known));
                let place = book.open(now, &self.limits, u16::from(jittered) << 15);
                let given = place.as_ref().map(|_| known.name);
                self.places.extend(place);
                return [(given, retired), (room, vec![])];
            }
            Step::Fail(which) if out > 0 => {
                lists.out.remove(which % out);
                book.free(self.places.remove(which % out));
            }
            Step::Put(which, used) if out > 0 => {
                let refused = lists.total() > lists.max;
                let known = lists.out.remove(which % out);
                let refused = refused || lists.now >= known.dies;
                let used = used || known.used;
                let kept = (!refused).then_some(Known { since: lists.now, used, ..known });
                lists.idle.extend(kept);
                let place = self.places.remove(which % out);
                let put = book.put(now, &self.limits, place, known.name, used);
                return [(put.err(), retired), (refused.then_some(known.name), vec![])];
            }
            Step::Take(bad) => {
                let (found, expected) = lists.take(bad);
                let usable = |name: &u32, _: bool| !name.is_multiple_of(bad);
                let taken = book.take(now, &self.limits, usable, &mut retired);
                assert_eq!(taken.as_ref().map(|it| it.1.used), found.map(|known| known.used));
                let name = taken.as_ref().map(|it| it.0);
                self.places.extend(taken.map(|it| it.1));
                return [(name, retired), (found.map(|known| known.name), expected)];
            }
            Step::Expire => {
                book.expire(now, &self.limits, &mut retired);
                let mut expected = lists.trim();
                expected.extend(lists.split(Lists::is_over));
                return [(None, retired), (None, expected)];
            }
            Step::Discard(name) => {
                let expected = lists.split(|_, known| known.name == name);
                retired.extend(book.discard(|it| *it == name));
                return [(None, retired), (None, expected)];
            }
            Step::Evict => {
                retired.extend(book.evict_oldest());
                let oldest = (!lists.idle.is_empty()).then(|| lists.idle.remove(0).name);
                return [(None, retired), (None, oldest.into_iter().collect())];
            }
            Step::Drain => {
                retired.extend(book.drain());
                return [(None, retired), (None, lists.split(|_, _| true))];
            }
            Step::Wait(secs) => lists.now += secs,
            Step::Max(max) => (lists.max, self.limits.max) = (max, max),
            Step::Fail(_) | Step::Put(..) => {}
        }
        [(None, vec![]), (None, vec![])]
    }
}

proptest! {
    /// Each connection is in one of the reference's lists until it was told to be closed, once.
    #[test]
    fn it_agrees_with_plain_lists(steps in proptest::collection::vec(step(), 0..100)) {
        let mut both = Both::new();
        for step in steps {
            let before = both.lists.total();
            let [book, lists] = both.step(&step);
            prop_assert_eq!(book, lists, "{:?}", &step);
            let (idle, out, max) = (both.book.idle(), both.book.out(), both.limits.max);
            prop_assert_eq!((idle, out), (both.lists.idle.len(), both.lists.out.len()));
            prop_assert!(idle + out <= max.max(before), "it grew above the limit");
            if matches!(step, Step::Take(_) | Step::Expire) {
                prop_assert!(idle == 0 || idle + out <= max, "a surplus is kept");
            }
            if matches!(step, Step::Expire) {
                let next = both.book.next_expiry(&both.limits);
                prop_assert!(next.is_none_or(|next| next > at(both.lists.now)));
            }
        }
    }
}
