//! Leases: sequences of writes against a model, and files that cannot be written.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::domain::Lease;

/// The ids that are written about, and how their addresses end.
const IDS: [(&str, &str); 3] = [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")];
const STATES: [AdminState; 3] = [AdminState::Ready, AdminState::Drain, AdminState::Maint];

#[derive(Clone, Debug)]
enum Write {
    Put {
        healthy: bool,
        deleted: bool,
    },
    Remove,
    Register {
        end: i64,
    },
    /// Of a generation that is so far from the latest, of this id and the next.
    Renew {
        late: i64,
        end: i64,
    },
    SetState(AdminState),
}

fn write() -> impl Strategy<Value = (usize, Write)> {
    let write = prop_oneof![
        2 => (any::<bool>(), any::<bool>()).prop_map(|(healthy, deleted)| Write::Put { healthy, deleted }),
        2 => Just(Write::Remove),
        4 => (0_i64..100).prop_map(|end| Write::Register { end }),
        4 => (-1_i64..3, 0_i64..100).prop_map(|(late, end)| Write::Renew { late, end }),
        3 => prop::sample::select(&STATES[..]).prop_map(Write::SetState),
    ];
    (0..IDS.len(), write)
}

/// What is known of an id.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    /// Whether it is healthy and whether it is deleted, if it has a row.
    row: Option<(bool, bool)>,
    lease: Option<Lease>,
}

impl Model {
    fn is_there(&self) -> bool {
        self.row.is_some_and(|(_, deleted)| !deleted)
    }

    fn generation(&self) -> i64 {
        self.lease.as_ref().map_or(0, |lease| lease.generation)
    }

    fn remove(&mut self) {
        self.row = self.row.map(|(healthy, _)| (healthy, true));
        if let Some(lease) = self.lease.as_mut().filter(|_| self.row.is_some()) {
            (lease.expires_at, lease.admin_state) = (None, AdminState::Ready);
        }
    }

    fn register(&mut self, end: i64) -> i64 {
        let kept = self.lease.as_ref().filter(|_| self.is_there()).map(|lease| lease.admin_state);
        let drains = self.row == Some((false, false));
        let usual = if drains { AdminState::Drain } else { AdminState::Ready };
        let admin_state = kept.filter(|kept| *kept != AdminState::Ready).unwrap_or(usual);
        let generation = self.generation() + 1;
        self.lease = Some(Lease { generation, expires_at: Some(end), admin_state });
        self.row = Some((admin_state == AdminState::Ready, false));
        generation
    }

    fn renew(&mut self, generation: i64, end: i64) {
        let is_there = self.is_there();
        let lease = self.lease.as_mut().filter(|lease| is_there && lease.generation == generation);
        if let Some(expires_at) = lease.and_then(|lease| lease.expires_at.as_mut()) {
            *expires_at = end.max(*expires_at);
        }
    }

    fn set_state(&mut self, state: AdminState) -> bool {
        if self.is_there() {
            let none = Lease { generation: 0, expires_at: None, admin_state: state };
            self.lease.get_or_insert(none).admin_state = state;
            self.row = Some((state == AdminState::Ready, false));
        }
        self.is_there()
    }
}

/// What a model expects to be read; a lease shows with its row only.
fn expected(models: &[Model; 3]) -> BTreeMap<String, ((bool, bool), Option<Lease>)> {
    let of = |((id, _), model): (&(&str, &str), &Model)| {
        Some(((*id).to_owned(), (model.row?, model.lease.clone())))
    };
    IDS.iter().zip(models).filter_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn sequences_of_writes_come_to_what_the_model_says(
        writes in prop::collection::vec((any::<bool>(), write()), 1..25),
    ) {
        let shop = Shop::new();
        let repositories = [shop.create(), shop.create()];
        let mut models: [Model; 3] = Default::default();
        for (by, (place, write)) in writes {
            let repository = &repositories[usize::from(by)];
            let (id, ip) = IDS[place];
            let model = &mut models[place];
            let row = backend(id, ip);
            match write {
                Write::Put { healthy, deleted } => {
                    model.row = Some((healthy, deleted));
                    wait(repository.put(vec![Backend { healthy, deleted, ..row }])).unwrap();
                }
                Write::Remove => {
                    model.remove();
                    let removed = wait(repository.remove(row.id)).unwrap();
                    prop_assert_eq!(removed, model.row.is_some());
                }
                Write::Register { end } => {
                    let generation = wait(repository.register(row, end)).unwrap();
                    prop_assert_eq!(generation, model.register(end));
                }
                Write::Renew { late, end } => {
                    let next = (place + 1) % IDS.len();
                    let renewals = [place, next].map(|place| Renewal {
                        id: IDS[place].0.parse().unwrap(),
                        generation: models[place].generation() - late,
                        expires_at: end,
                    });
                    for (place, renewal) in [place, next].into_iter().zip(&renewals) {
                        models[place].renew(renewal.generation, renewal.expires_at);
                    }
                    wait(repository.renew(renewals.into())).unwrap();
                }
                Write::SetState(state) => {
                    let set = wait(repository.set_state(row.id, state)).unwrap();
                    prop_assert_eq!(set, model.set_state(state));
                }
            }
            let read = load(&repositories[usize::from(!by)]);
            prop_assert_eq!(&read.skipped, &[]);
            let read = read.backends.into_iter();
            let read = read.map(|b| (b.id.to_string(), ((b.healthy, b.deleted), b.lease)));
            prop_assert_eq!(read.collect::<BTreeMap<_, _>>(), expected(&models));
        }
    }
}

/// What each of the three writes is answered with.
fn refusals(repo: &SqliteBackendRepository) -> [String; 3] {
    let id: BackendId = "a".parse().unwrap();
    let renewal = Renewal { id: id.clone(), generation: 1, expires_at: 9 };
    [
        reason(wait(repo.register(backend("a", "10.0.0.1"), 9))),
        reason(wait(repo.renew(vec![renewal]))),
        reason(wait(repo.set_state(id, AdminState::Drain))),
    ]
}

#[test]
fn who_only_reads_or_has_no_table_is_told_so() {
    let shop = Shop::new();
    shop.row_of_old_schema();
    let repo = shop.open(Access::ReadOnly).unwrap();
    for said in refusals(&repo) {
        assert!(said.contains("opened for reading only"), "{said}");
    }
    let repo = shop.open(Access::Existing).unwrap();
    let other = Connection::open(shop.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let said = reason(wait(repo.set_state("a".parse().unwrap(), AdminState::Drain)));
    assert!(said.contains("locked by another program"), "{said}");
    other.execute_batch("ROLLBACK; ALTER TABLE backends RENAME TO others").unwrap();
    for said in refusals(&repo) {
        assert!(said.contains("has no table `backends`"), "{said}");
    }
    let has_state = "SELECT count(*) FROM sqlite_schema WHERE name = 'edgeproxy_backend_state'";
    let made: i64 = other.query_row(has_state, [], |row| row.get(0)).unwrap();
    assert_eq!(made, 0, "a write that fails makes no table");
}

#[test]
fn numbers_that_are_text_count_by_what_they_say() {
    let shop = Shop::new();
    shop.row_of_old_schema();
    shop.sql(
        "CREATE TABLE edgeproxy_backend_state (id, generation, lease_expires_at, admin_state);
         INSERT INTO edgeproxy_backend_state VALUES ('a', ' 3', '100', NULL)",
    );
    let repo = shop.open(Access::Existing).unwrap();
    let renewal = |generation| Renewal { id: "a".parse().unwrap(), generation, expires_at: 200 };
    let lease = || load(&repo).backends[0].lease.clone().unwrap();
    wait(repo.renew(vec![renewal(2)])).unwrap();
    assert_eq!(lease().expires_at, Some(100));
    wait(repo.renew(vec![renewal(3)])).unwrap();
    assert_eq!(lease().expires_at, Some(200));
    assert_eq!(wait(repo.register(backend("a", "10.0.0.1"), 9)).unwrap(), 4);
    shop.sql("UPDATE edgeproxy_backend_state SET generation = 'many'");
    let said = reason(wait(repo.register(backend("a", "10.0.0.1"), 9)));
    assert!(said.contains("backend a: generation = \"many\": must be a whole number"), "{said}");
}
