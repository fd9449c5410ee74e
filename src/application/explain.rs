//! Why a client goes where it goes: every backend with its rank and its reason.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::locate::Location;
use super::route;
use super::upstreams::{AppTable, Observed};
use crate::domain::ClientKey;
use crate::domain::affinity::Affinity;
use crate::domain::balance::{FULL_SHARE, Load, Origin, Spill, Standing as Stands, Tier};
use crate::domain::time::Time;

/// The answer for one client.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The client.
    #[schema(value_type = String)]
    pub client: IpAddr,
    /// Its country; `None` = unknown.
    pub country: Option<String>,
    /// Its region; `None` = unknown.
    pub region: Option<String>,
    /// The app that it asks for.
    pub app: String,
    /// How far the app lets it be carried: any, region or country.
    pub spill: String,
    /// The backend that it is bound to, because it was carried there before; `None` = none, or nobody
    /// knows.
    pub bound: Option<String>,
    /// Every backend of the app, best first.
    pub backends: Vec<Standing>,
}

/// One backend's standing.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Ranked)]
pub struct Standing {
    /// Its name.
    pub id: String,
    /// Where it is dialled.
    pub address: String,
    /// Where it is.
    pub region: String,
    /// The country that it is in; `None` = unknown.
    pub country: Option<String>,
    /// How near it is, 0 to 3; `None` where the client may not go.
    pub tier: Option<u8>,
    /// Open connections.
    pub active: u32,
    /// From which the next tier is preferred; 0 = none.
    pub soft_limit: u32,
    /// Never exceeded; 0 = none.
    pub hard_limit: u32,
    /// Its weight.
    pub weight: u32,
    /// Its chance of being chosen now, in percent.
    pub share: f64,
    /// `chosen`, or why not.
    pub reason: String,
}

impl Explanation {
    /// Whether any backend can be chosen.
    #[must_use]
    pub fn has_choice(&self) -> bool {
        self.backends.iter().any(|standing| standing.share > 0.0)
    }
}

/// Why one is not chosen that is to be left out.
const WITHOUT: &str = "without";

/// What a backend is ranked by, best first: band (below soft, below hard, demoted), tier, region.
type Rank = (u8, Tier, usize);

/// Explains where `client` would go now: with what is known of whom it is bound to, and as if the
/// backends and all of the regions `without` were gone.
#[must_use]
pub fn explain(
    table: &AppTable,
    (client, location): (IpAddr, Location),
    affinity: Option<&Affinity>,
    without: &[String],
    now: Time,
) -> Explanation {
    let origin = table.layout.origin(location.country, location.at_pop);
    let load = table.load(now);
    let mut ranked: Vec<(Result<Rank, String>, Standing)> = table
        .rows
        .iter()
        .map(|row| {
            let backend = &row.backend;
            let near = table.layout.nearness(origin, &backend.region, backend.country);
            let is_gone = |gone: &String| {
                backend.id.as_str() == gone || backend.region.as_str().eq_ignore_ascii_case(gone)
            };
            let rank = match (row.place, near) {
                _ if without.iter().any(is_gone) => Err(WITHOUT.into()),
                (Err(reason), _) => Err(reason.as_str().to_owned()),
                (Ok(_), None) => Err(format!("spill_{}", spill_name(table.rules.spill))),
                (Ok(place), Some((tier, rank))) => {
                    band(table, &load, place).map(|band| (band, tier, rank))
                }
            };
            let active = row.place.map_or(0, |place| load.active(place));
            let warm = row.place.map_or(FULL_SHARE, |place| load.share(place));
            let standing = Standing {
                id: backend.id.to_string(),
                address: backend.addr().to_string(),
                region: backend.region.to_string(),
                country: backend.country.map(|country| country.to_string()),
                tier: near.map(|(tier, _)| tier.number()),
                active,
                soft_limit: backend.soft_limit,
                hard_limit: backend.hard_limit,
                weight: backend.weight,
                share: f64::from(backend.weight) * f64::from(warm),
                reason: String::new(),
            };
            (rank, standing)
        })
        .collect();
    ranked.sort_by(|(a, x), (b, y)| order(a).cmp(&order(b)).then_with(|| x.id.cmp(&y.id)));

    let best = ranked.iter().filter_map(|(rank, _)| rank.clone().ok()).min();
    let chosen = |rank: &Result<Rank, String>| rank.as_ref().ok() == best.as_ref();
    let total: f64 = ranked
        .iter()
        .filter(|(rank, _)| best.is_some() && chosen(rank))
        .map(|(_, standing)| standing.share)
        .sum();
    let backends = ranked
        .into_iter()
        .map(|(rank, mut standing)| {
            let weight = std::mem::take(&mut standing.share);
            standing.reason = match (&rank, best) {
                (Err(reason), _) => reason.clone(),
                (Ok(_), Some(best)) if chosen(&rank) => {
                    standing.share = 100.0 * weight / total;
                    format!("chosen: {}", tier_name(best.1))
                }
                (Ok((2, ..)), _) => "dial_failed".into(),
                (Ok((1, ..)), Some((0, ..))) => {
                    format!("soft {}/{}", standing.active, standing.soft_limit)
                }
                (Ok((_, tier, _)), _) => format!("farther: {}", tier_name(*tier)),
            };
            standing
        })
        .collect();
    let mut explanation = Explanation {
        client,
        country: location.country.map(|country| country.to_string()),
        region: table.layout.region_name(origin).map(ToString::to_string),
        app: table.name.to_string(),
        spill: spill_name(table.rules.spill).into(),
        bound: None,
        backends,
    };
    let affinity = affinity.filter(|_| !table.rules.affinity_ttl.is_zero());
    if let Some(affinity) = affinity {
        keep(&mut explanation, table, (client, origin), affinity, now);
    }
    explanation
}

/// Puts the backend first that the client was carried to before, if it is carried there again.
fn keep(
    explanation: &mut Explanation,
    table: &AppTable,
    (client, origin): (IpAddr, Origin),
    affinity: &Affinity,
    now: Time,
) {
    let key = (ClientKey::from(client), table.number);
    let Some(binding) = affinity.lookup(key, now) else { return };
    let Some(member) = table.place(binding.backend) else { return };
    let id = table.upstream(member).id.as_str();
    explanation.bound = Some(id.into());
    let kept = route::kept(table, (key, origin), affinity, now, &mut |_| 0);
    let hard = &table.layout.members()[member];
    let backends = &mut explanation.backends;
    let Some(place) = backends.iter().position(|standing| standing.id == id) else { return };
    let is_gone = backends[place].reason == WITHOUT;
    if kept.is_none() || is_gone || !hard.below_hard(table.load(now).active(member)) {
        return;
    }
    for other in backends.iter_mut().filter(|standing| standing.share > 0.0) {
        other.share = 0.0;
        other.reason = format!("the client is bound to {id}");
    }
    let mut first = backends.remove(place);
    first.share = 100.0;
    first.reason = "chosen: it had the client before (affinity)".into();
    backends.insert(0, first);
}

fn band(table: &AppTable, load: &Observed<'_>, place: usize) -> Result<u8, String> {
    let member = &table.layout.members()[place];
    let active = load.active(place);
    match load.standing(place) {
        Stands::Out => Err(load.why_out(place).into()),
        _ if !member.below_hard(active) => Err(format!("hard {active}/{}", member.hard_limit)),
        Stands::Last => Ok(2),
        Stands::Up => Ok(u8::from(!member.below_soft(active))),
    }
}

fn order(rank: &Result<Rank, String>) -> (bool, Option<Rank>) {
    (rank.is_err(), rank.as_ref().ok().copied())
}

const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Country => "the client's country",
        Tier::Region => "the client's region",
        Tier::Pop => "this POP's region",
        Tier::Far => "another region",
    }
}

const fn spill_name(spill: Spill) -> &'static str {
    match spill {
        Spill::Any => "any",
        Spill::Region => "region",
        Spill::Country => "country",
    }
}
