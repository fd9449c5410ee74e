//! Which backend: tiers by nearness, limits, and a weighted draw of two.
//!
//! A [`Layout`] holds one app's eligible backends sorted by region and country, so that every tier
//! is a few ranges of one array and a draw in proportion to weight is a search in its running sum.
//! The cost of a decision is flat in the number of backends; it takes no lock and allocates nothing.
//! The draw of two is Mitzenmacher's "power of two choices", with weights.

mod lot;
mod member;
mod span;
mod vacancy;

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};

use lot::{Fit, Lot};
pub use member::{FULL_SHARE, Load, Member, Standing};
use span::Span;
pub use vacancy::Vacancy;
use vacancy::{Bits, Hints};

use super::geo::Country;
use super::region::{Atlas, Region, known_regions};

/// How often a tier is drawn from before it is searched.
const DRAWS: usize = 4;
/// How many members that warm up a search passes over before it leaves the tier.
const HELD_BACK: usize = 32;

/// How far from home an app lets its clients be carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spill {
    /// Anywhere.
    #[default]
    Any,
    /// Within the client's region (or its country), else refused. A client of unknown place
    /// counts as one of the POP's region.
    Region,
    /// Within the client's country, else refused; a client of unknown country is refused.
    Country,
}

/// How near a backend is to a client; the smaller the nearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// In the client's country.
    Country,
    /// In the client's region.
    Region,
    /// In this POP's region.
    Pop,
    /// Anywhere else.
    Far,
}

impl Tier {
    /// 0 to 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// Where a client is, in the terms of one [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    country: Option<Country>,
    region: Option<u32>,
}

impl Origin {
    /// The client's country, when it is known.
    #[must_use]
    pub const fn country(self) -> Option<Country> {
        self.country
    }

    /// The number of the client's region in the layout, when it is known.
    #[must_use]
    pub const fn region(self) -> Option<u32> {
        self.region
    }

    /// The region alone.
    #[must_use]
    pub const fn without_country(self) -> Self {
        Self { country: None, region: self.region }
    }
}

/// Members and regions that a further try should not go to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Avoid<'a> {
    /// Members already tried.
    pub members: &'a [usize],
    /// Regions already tried.
    pub regions: &'a [Region],
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Which member.
    pub member: usize,
    /// How near it is to the client.
    pub tier: Tier,
}

/// The eligible backends of one app, laid out for the decision.
#[derive(Debug)]
pub struct Layout {
    members: Vec<Member>,
    /// The number of each member's region.
    member_region: Vec<u32>,
    /// Running sum of weights: member `i` owns `[sum[i], sum[i + 1])`.
    sum: Vec<u64>,
    regions: Vec<RegionRow>,
    /// Members by country, whatever their region.
    countries: HashMap<Country, Vec<Range<usize>>>,
    /// The region of every country code, by [`Country::index`].
    region_of: Vec<Option<u32>>,
    pop: u32,
    spill: Spill,
    vacancy: Vacancy,
}

#[derive(Debug)]
struct RegionRow {
    name: Region,
    range: Range<usize>,
    /// The parts of `range` that are in one country.
    countries: Vec<(Country, Range<usize>)>,
    /// All regions that have members, nearest first.
    by_distance: Vec<u32>,
}

impl Layout {
    /// Lays members out; also gives, for each place in the layout, the place of that member in
    /// what was passed in.
    #[must_use]
    pub fn new(given: &[Member], pop: &Region, atlas: &Atlas, spill: Spill) -> (Self, Vec<usize>) {
        let mut order: Vec<usize> = (0..given.len()).collect();
        order.sort_by_key(|&i| (&given[i].region, given[i].country, i));
        let members: Vec<Member> = order.iter().map(|&i| given[i].clone()).collect();

        let sum = std::iter::once(0)
            .chain(members.iter().scan(0, |total, member| {
                *total += u64::from(member.weight);
                Some(*total)
            }))
            .collect();

        let mut names: Vec<Region> = known_regions()
            .chain([pop.clone()])
            .chain(atlas.countries.values().cloned())
            .chain(members.iter().map(|m| m.region.clone()))
            .collect();
        names.sort();
        names.dedup();
        let number = |name: &Region| {
            names.binary_search(name).ok().and_then(|place| u32::try_from(place).ok())
        };

        let mut occupied: Vec<Region> = members.iter().map(|m| m.region.clone()).collect();
        occupied.dedup();
        let regions = names
            .iter()
            .map(|name| {
                let start = members.partition_point(|m| m.region < *name);
                let end = members.partition_point(|m| m.region <= *name);
                RegionRow {
                    name: name.clone(),
                    range: start..end,
                    countries: country_parts(&members, start..end),
                    by_distance: atlas
                        .by_distance(name, &occupied)
                        .iter()
                        .filter_map(number)
                        .collect(),
                }
            })
            .collect::<Vec<_>>();

        let mut countries: HashMap<Country, Vec<Range<usize>>> = HashMap::new();
        for (country, range) in regions.iter().flat_map(|region| &region.countries) {
            countries.entry(*country).or_default().push(range.clone());
        }

        let letters = || b'A'..=b'Z';
        let region_of = letters()
            .flat_map(|a| letters().map(move |b| [a, b]))
            .map(|code| {
                let country: Country = std::str::from_utf8(&code).ok()?.parse().ok()?;
                number(&atlas.region_of(country)?)
            })
            .collect();

        let member_region = members.iter().filter_map(|m| number(&m.region)).collect();
        let layout = Self {
            member_region,
            vacancy: Vacancy::new(members.len()),
            pop: number(pop).unwrap_or_default(),
            members,
            sum,
            regions,
            countries,
            region_of,
            spill,
        };
        (layout, order)
    }

    /// The members, by place.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The number of a member's region in this layout.
    #[must_use]
    pub fn region_number(&self, member: usize) -> u32 {
        self.member_region[member]
    }

    /// Which members may have room.
    #[must_use]
    pub const fn vacancy(&self) -> &Vacancy {
        &self.vacancy
    }

    /// Where a client from `country` is; `at_pop` for one on this machine or a private network.
    #[must_use]
    pub fn origin(&self, country: Option<Country>, at_pop: bool) -> Origin {
        let region = country
            .and_then(|country| self.region_of[country.index()])
            .or_else(|| at_pop.then_some(self.pop));
        Origin { country, region }
    }

    /// The number of a region in this layout, if anything is known of it.
    #[must_use]
    pub fn number_of(&self, region: &Region) -> Option<u32> {
        let place = self.regions.binary_search_by(|row| row.name.cmp(region)).ok()?;
        u32::try_from(place).ok()
    }

    /// The number of this POP's region.
    #[must_use]
    pub const fn pop(&self) -> u32 {
        self.pop
    }

    /// The name of the region that a client is in, when it is known.
    #[must_use]
    pub fn region_name(&self, origin: Origin) -> Option<&Region> {
        origin.region.map(|region| &self.regions[region as usize].name)
    }

    /// How near a place is to a client, and its rank among the regions of that tier;
    /// `None` where [`Spill`] forbids it.
    #[must_use]
    pub fn nearness(
        &self,
        origin: Origin,
        region: &Region,
        country: Option<Country>,
    ) -> Option<(Tier, usize)> {
        let place = self.number_of(region).unwrap_or(u32::MAX);
        let tier = self.tier(origin, place, country)?;
        let from = origin.region.unwrap_or(self.pop) as usize;
        let far = &self.regions[from].by_distance;
        let rank = match tier {
            Tier::Far => far.iter().position(|r| *r == place).unwrap_or(far.len()),
            _ => 0,
        };
        Some((tier, rank))
    }

    /// How near a member is to a client; `None` where [`Spill`] forbids it.
    #[must_use]
    pub fn tier_of(&self, origin: Origin, member: usize) -> Option<Tier> {
        self.tier(origin, self.member_region[member], self.members[member].country)
    }

    fn tier(&self, origin: Origin, region: u32, country: Option<Country>) -> Option<Tier> {
        let tier = if country.is_some() && country == origin.country {
            Tier::Country
        } else if origin.region == Some(region) {
            Tier::Region
        } else if region == self.pop {
            Tier::Pop
        } else {
            Tier::Far
        };
        self.allows(origin, tier).then_some(tier)
    }

    /// Whether any member that may serve the client is not out, which it is full then, when none
    /// was picked.
    #[must_use]
    pub fn serves(&self, origin: Origin, load: &impl Load) -> bool {
        let stands = |member: usize| load.standing(member) != Standing::Out;
        self.tiers(origin).any(|(_, span)| span.parts().iter().cloned().flatten().any(stands))
    }

    /// Chooses a backend: below its soft limit in the nearest tier that has one, else below its
    /// hard limit in the nearest tier, else one that ranks last. `draw(n)` gives a number below `n`.
    ///
    /// The answer is a proposal: the caller reserves the connection's place and asks again when
    /// somebody else took it in between.
    pub fn pick(
        &self,
        origin: Origin,
        load: &impl Load,
        avoid: Avoid<'_>,
        draw: &mut impl FnMut(u64) -> u64,
    ) -> Option<Choice> {
        let mut lot = Lot::default();
        [Band::BelowSoft, Band::BelowHard, Band::Last].into_iter().find_map(|band| {
            let wanted = Wanted { band, load, avoid };
            let chosen = self.tiers(origin).find_map(|(tier, span)| {
                let member = self.pick_within(&span, tier, &wanted, &mut lot, draw)?;
                Some(Choice { member, tier })
            });
            // Who warms up gets what nobody else takes.
            chosen.or(lot.held_back)
        })
    }

    /// Whether a tier nearer than `tier` has a member below its soft limit.
    pub fn nearer_has_room(
        &self,
        origin: Origin,
        tier: Tier,
        load: &impl Load,
        draw: &mut impl FnMut(u64) -> u64,
    ) -> bool {
        let wanted = Wanted { band: Band::BelowSoft, load, avoid: Avoid::default() };
        let mut lot = Lot::default();
        self.tiers(origin).take_while(|(nearer, _)| *nearer < tier).any(|(nearer, span)| {
            self.pick_within(&span, nearer, &wanted, &mut lot, draw).is_some()
        })
    }

    fn pick_within(
        &self,
        span: &Span<'_>,
        tier: Tier,
        wanted: &Wanted<'_, impl Load>,
        lot: &mut Lot,
        draw: &mut impl FnMut(u64) -> u64,
    ) -> Option<usize> {
        let hints = self.hints(wanted.band);
        if !span.parts().iter().any(|part| hints.any(part)) {
            return None;
        }
        let total: u64 = span.parts().iter().map(|part| self.weight_of(part)).sum();
        for _ in 0..DRAWS {
            let first = self.at_weight(span, draw(total));
            let others = total - u64::from(self.members[first].weight);
            let second = if others == 0 {
                first
            } else {
                let mut weight = draw(others);
                if weight >= self.weight_before(span, first) {
                    weight += u64::from(self.members[first].weight);
                }
                self.at_weight(span, weight)
            };
            let [a, b] = [first, second].map(|member| {
                let fit = self.fits(member, wanted)?;
                lot.admits(fit, Choice { member, tier }, draw).then_some(fit)
            });
            match (a, b) {
                (Some(a), Some(b)) => return Some(if a.heavier_than(b) { second } else { first }),
                (Some(_), None) => return Some(first),
                (None, Some(_)) => return Some(second),
                (None, None) => {}
            }
        }
        let from = draw(total);
        let mut held_back = 0;
        let found = span.parts().iter().try_for_each(|part| {
            let middle = part.start + usize::try_from(from).unwrap_or_default() % part.len().max(1);
            hints.find(part, middle, |member| match self.fits(member, wanted) {
                None => ControlFlow::Continue(()),
                Some(fit) if lot.admits(fit, Choice { member, tier }, draw) => {
                    ControlFlow::Break(Some(member))
                }
                Some(_) => {
                    // Where so many warm up, it is the tier that does.
                    held_back += 1;
                    if held_back < HELD_BACK {
                        ControlFlow::Continue(())
                    } else {
                        ControlFlow::Break(None)
                    }
                }
            })
        });
        found.break_value().flatten()
    }

    /// The member's load, if it may be chosen in this band.
    fn fits(&self, member: usize, wanted: &Wanted<'_, impl Load>) -> Option<Fit> {
        let Wanted { band, load, avoid } = wanted;
        let row = &self.members[member];
        let room = self.room(*band);
        let has_room = |active| match band {
            Band::BelowSoft => row.below_soft(active),
            Band::BelowHard | Band::Last => row.below_hard(active),
        };
        let active = load.active(member);
        if !has_room(active) {
            room.clear(member);
            // One that left before the bit was cleared did not set it: look once more.
            if has_room(load.active(member)) {
                room.set(member);
            }
            return None;
        }
        let standing = load.standing(member);
        match band {
            Band::BelowSoft | Band::BelowHard if standing != Standing::Up => {
                self.vacancy.up.clear(member);
                if load.standing(member) == Standing::Up {
                    self.vacancy.up.set(member);
                }
                return None;
            }
            Band::Last if standing == Standing::Out => return None,
            _ => {}
        }
        let fits = !avoid.members.contains(&member) && !avoid.regions.contains(&row.region);
        let share = load.share(member);
        let weight = u64::from(row.weight) * u64::from(share);
        fits.then_some(Fit { active: u64::from(active), weight, share })
    }

    /// Where a search of a band begins.
    const fn hints(&self, band: Band) -> Hints<'_> {
        let up = match band {
            Band::BelowSoft | Band::BelowHard => Some(&self.vacancy.up),
            Band::Last => None,
        };
        Hints { room: self.room(band), up }
    }

    const fn room(&self, band: Band) -> &Bits {
        match band {
            Band::BelowSoft => &self.vacancy.below_soft,
            Band::BelowHard | Band::Last => &self.vacancy.below_hard,
        }
    }

    fn weight_of(&self, part: &Range<usize>) -> u64 {
        self.sum[part.end] - self.sum[part.start]
    }

    fn weight_before(&self, span: &Span<'_>, member: usize) -> u64 {
        let mut before = 0;
        for part in span.parts() {
            if part.contains(&member) {
                return before + self.sum[member] - self.sum[part.start];
            }
            before += self.weight_of(part);
        }
        before
    }

    /// The member that owns the given place in the span's weights, which is below their total.
    fn at_weight(&self, span: &Span<'_>, mut weight: u64) -> usize {
        for part in span.parts() {
            let own = self.weight_of(part);
            if weight < own {
                let target = self.sum[part.start] + weight;
                let ends = &self.sum[part.start + 1..=part.end];
                return part.start + ends.partition_point(|end| *end <= target);
            }
            weight -= own;
        }
        unreachable!("a draw is below the total weight")
    }

    fn allows(&self, origin: Origin, tier: Tier) -> bool {
        match self.spill {
            Spill::Any => true,
            Spill::Region => tier <= Tier::Region || (origin.region.is_none() && tier == Tier::Pop),
            Spill::Country => tier == Tier::Country,
        }
    }

    /// The tiers in order; the farthest one region after the other.
    fn tiers(&self, origin: Origin) -> impl Iterator<Item = (Tier, Span<'_>)> {
        let in_country = origin
            .country
            .and_then(|country| self.countries.get(&country))
            .map(|ranges| (Tier::Country, Span::Listed(ranges)));
        let own = origin.region.map(|region| (Tier::Region, self.abroad(region, origin)));
        let pop =
            (origin.region != Some(self.pop)).then(|| (Tier::Pop, self.abroad(self.pop, origin)));
        let from = origin.region.unwrap_or(self.pop) as usize;
        let far = self.regions[from]
            .by_distance
            .iter()
            .filter(move |region| Some(**region) != origin.region && **region != self.pop)
            .map(move |region| (Tier::Far, self.abroad(*region, origin)));
        in_country
            .into_iter()
            .chain(own)
            .chain(pop)
            .chain(far)
            .filter(move |(tier, _)| self.allows(origin, *tier))
    }

    /// A region without what lies in the client's own country, which is a tier of its own.
    fn abroad(&self, region: u32, origin: Origin) -> Span<'_> {
        let row = &self.regions[region as usize];
        let own = origin.country.and_then(|country| {
            let place = row.countries.binary_search_by_key(&country, |(c, _)| *c).ok()?;
            Some(&row.countries[place].1)
        });
        let Range { start, end } = row.range;
        Span::Holed(match own {
            Some(own) => [start..own.start, own.end..end],
            None => [start..end, end..end],
        })
    }
}

fn country_parts(members: &[Member], range: Range<usize>) -> Vec<(Country, Range<usize>)> {
    let mut parts: Vec<(Country, Range<usize>)> = Vec::new();
    for place in range {
        let Some(country) = members[place].country else { continue };
        match parts.last_mut() {
            Some((last, part)) if *last == country => part.end = place + 1,
            _ => parts.push((country, place..place + 1)),
        }
    }
    parts
}

/// The three rounds of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Band {
    BelowSoft,
    BelowHard,
    /// Whoever is not out.
    Last,
}

/// What a search is for.
struct Wanted<'a, L> {
    band: Band,
    load: &'a L,
    avoid: Avoid<'a>,
}

#[cfg(test)]
mod tests;
