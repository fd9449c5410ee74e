//! How many frames a client may send that ask for nothing: all but heads and bodies. The library takes up each,
//! as many as there are.

use std::time::Duration;

use super::frames::{DATA, Frame, HEADERS, RST_STREAM};
use crate::domain::time::Time;

/// So many at any time.
const AT_ONCE: u32 = 10_000;
/// And one more each time that so much of it has passed.
const EACH: Duration = Duration::from_millis(10);
/// What every answer allows for besides.
const FOR_AN_ANSWER: u32 = 32;
/// What every frame of a body does that is sent: two windows to be opened, and one more.
const FOR_DATA: u32 = 3;
/// For so many bytes of it there may be one more still: whoever reads in small pieces opens windows as often.
const FOR_BYTES: u32 = 1 << 10;
/// The most that is saved up of that.
const MAX_EARNED: u32 = 100_000;

/// What is left of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    /// When what time allows for will be whole again (GCRA).
    full_at: Time,
    earned: u32,
}

impl Budget {
    /// Notes the time at which more comes.
    pub fn comes_at(&mut self, now: Time) {
        self.full_at = self.full_at.max(now);
    }

    /// Notes what a client has sent.
    pub fn heard(&mut self, frame: Frame) {
        if frame.kind != HEADERS && !frame.has_body() {
            self.spend();
        }
    }

    /// Notes what it is sent.
    pub fn said(&mut self, frame: Frame) {
        let earned = match frame.kind {
            HEADERS => FOR_AN_ANSWER,
            DATA if frame.has_body() => FOR_DATA + frame.length / FOR_BYTES,
            // What it has asked for is refused.
            RST_STREAM => return self.spend(),
            _ => 0,
        };
        self.earned = self.earned.saturating_add(earned).min(MAX_EARNED);
    }

    /// Whether it is more than all.
    pub fn is_overdrawn(&self, now: Time) -> bool {
        self.full_at > now + EACH * AT_ONCE
    }

    fn spend(&mut self) {
        match self.earned.checked_sub(1) {
            Some(left) => self.earned = left,
            None => self.full_at = self.full_at + EACH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::Frames;
    use super::*;

    const PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00";
    const BODY: &[u8] = b"\x00\x00\x01\x00\x00\x00\x00\x00\x01";
    const HEAD: &[u8] = b"\x00\x00\x01\x01\x04\x00\x00\x00\x01";
    const RESET: &[u8] = b"\x00\x00\x04\x03\x00\x00\x00\x00\x01";

    fn frame(head: &[u8]) -> Frame {
        let mut told = None;
        Frames::default().follow(head, |frame| told = Some(frame));
        told.expect("a frame")
    }

    /// A moment so many seconds after another.
    fn at(secs: u64) -> Time {
        Time::from_nanos(7) + Duration::from_secs(secs)
    }

    #[test]
    fn a_flood_overdraws_it_and_a_client_that_pings_for_ever_does_not() {
        let mut budget = Budget::default();
        budget.comes_at(at(1_000));
        for number in 0..=AT_ONCE {
            assert!(!budget.is_overdrawn(at(1_000)), "{number}");
            budget.heard(frame(PING));
        }
        assert!(budget.is_overdrawn(at(1_000)));

        let mut budget = Budget::default();
        for second in 0..50_000 {
            budget.comes_at(at(second));
            (0..50).for_each(|_| budget.heard(frame(PING)));
            assert!(!budget.is_overdrawn(at(second)), "{second}");
        }
    }

    #[test]
    fn requests_and_bodies_cost_nothing_and_answers_pay_for_windows_that_they_need() {
        let mut budget = Budget::default();
        budget.comes_at(at(0));
        for _ in 0..10 * AT_ONCE {
            budget.heard(frame(HEAD));
            budget.heard(frame(BODY));
            budget.said(frame(BODY));
            (0..3).for_each(|_| budget.heard(frame(PING)));
        }
        assert!(!budget.is_overdrawn(at(0)));
        // What is saved up is bounded.
        (0..MAX_EARNED).for_each(|_| budget.said(frame(HEAD)));
        (0..=MAX_EARNED + AT_ONCE).for_each(|_| budget.heard(frame(PING)));
        assert!(budget.is_overdrawn(at(0)));
    }

    #[test]
    fn requests_that_are_all_refused_overdraw_it() {
        let mut budget = Budget::default();
        for _ in 0..=AT_ONCE {
            budget.heard(frame(HEAD));
            budget.said(frame(RESET));
        }
        assert!(budget.is_overdrawn(at(0)));
    }
}
