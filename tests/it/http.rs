//! Http mode, as clients and backends see it.

mod answers;
mod corpus;
mod differential;
mod drain;
mod framing;
mod headers;
mod hosts;
mod keeping;
mod limited;
mod own_answers;
mod peers;
mod programs;
mod raw;
mod requests;
mod retries;
mod secured;
mod streaming;
mod timeouts;
mod told;
mod two;
mod upgrades;
