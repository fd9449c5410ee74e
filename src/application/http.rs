//! HTTP requests: what a backend is told of them, and clients of the answers. Nothing here waits or
//! does I/O.

mod answer;
mod exchange;
mod forward;
mod message;

pub use answer::Answer;
pub use exchange::{Asked, Exchange, Out, Turn, read};
pub use forward::{About, Passed, answer_head, request_head};
pub use message::Flow;
