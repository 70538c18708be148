//! What the personas ask: drawn from a seed, the same for every system.

use vault_bench::seeded::Seeded;

use super::Choice;

/// Records of a user.
pub(super) const OF_USER: u64 = 4;
/// Purposes a record may be given for: the vault's schema declares them.
pub(super) const PURPOSES: u64 = 50;
/// Recipients that records are shared with at the start.
pub(super) const RECIPIENTS: u64 = 200;
/// Days until the last record expires.
pub(super) const DAYS: u64 = 3000;
/// Users who are there and gone again before anybody asks.
pub(super) const GONE: u64 = 50;
/// Records that a deletion takes at most.
pub(super) const DELETED: u64 = 10;
/// Records that a read takes at most.
pub(super) const READ: u64 = 100;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persona {
    Processor,
    Regulator,
    Customer,
    Controller,
}

/// In the order in which they are asked.
pub(crate) const PERSONAS: [Persona; 4] =
    [Persona::Processor, Persona::Regulator, Persona::Customer, Persona::Controller];

impl Persona {
    /// In tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Persona::Processor => "processor",
            Persona::Regulator => "regulator",
            Persona::Customer => "customer",
            Persona::Controller => "controller",
        }
    }
}

/// One operation. Records, users, purposes and recipients are numbers; `new` tells what is written apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Create {
        record: u64,
    },
    DeleteByPurpose {
        purpose: u64,
    },
    /// Those that expire before this day.
    DeleteByExpiry {
        day: u64,
    },
    DeleteByUser {
        user: u64,
    },
    DeleteByKey {
        record: u64,
    },
    ChangeMetadataByPurpose {
        purpose: u64,
        new: u64,
    },
    ChangeMetadataByUser {
        user: u64,
        new: u64,
    },
    ChangeMetadataByRecipient {
        recipient: u64,
        new: u64,
    },
    ChangeMetadataByKey {
        record: u64,
        new: u64,
    },
    ChangeByKey {
        record: u64,
        new: u64,
    },
    ReadByKey {
        record: u64,
    },
    ReadMetadataByKey {
        record: u64,
    },
    ReadMetadataByUser {
        user: u64,
    },
    ReadByPurpose {
        purpose: u64,
    },
    /// Given for this purpose, by people who do not object to it.
    ReadByObjection {
        purpose: u64,
    },
    /// The same, of those that automated decisions may use.
    ReadByDecision {
        purpose: u64,
    },
    /// The 100 entries from here on.
    ReadLog {
        from: u64,
    },
    VerifyDeletion {
        user: u64,
    },
}

/// A record as it is at the start.
#[derive(Clone, Copy)]
pub(super) struct Record(pub(super) u64);

impl Record {
    pub(super) fn user(self) -> u64 {
        self.0 / OF_USER
    }

    pub(super) fn field(self) -> u64 {
        self.0 % OF_USER
    }

    pub(super) fn purpose(self) -> u64 {
        self.drawn(1) % PURPOSES
    }

    /// Every tenth objects to a purpose, which may be its own.
    pub(super) fn objection(self) -> Option<u64> {
        self.drawn(2).is_multiple_of(10).then(|| self.drawn(3) % PURPOSES)
    }

    pub(super) fn automated(self) -> bool {
        self.drawn(4).is_multiple_of(2)
    }

    pub(super) fn recipient(self) -> u64 {
        self.drawn(5) % RECIPIENTS
    }

    pub(super) fn expires(self) -> u64 {
        self.drawn(6) % DAYS + 1
    }

    /// Its value: as long as GDPRbench's ten-field records are a field.
    pub(super) fn value(self) -> String {
        let mut seeded = Seeded::new(self.drawn(7));
        (0..100).map(|_| char::from(b'a' + seeded.below(26) as u8)).collect()
    }

    fn drawn(self, what: u64) -> u64 {
        Seeded::new(self.0.wrapping_mul(31).wrapping_add(what)).number() >> 8
    }
}

/// An endless row of operations.
pub(super) struct Operations {
    persona: Persona,
    records: u64,
    seeded: Seeded,
    zipf: Option<Zipf>,
    number: u64,
    round: u64,
}

impl Operations {
    pub(super) fn new(persona: Persona, choice: Choice, records: u64, round: u64) -> Operations {
        let zipf = (choice == Choice::Zipfian).then(|| Zipf::new(records));
        Operations { persona, records, seeded: Seeded::new(100 + round), zipf, number: 0, round }
    }

    /// One below `bound`, by the distribution.
    fn pick(&mut self, bound: u64) -> u64 {
        match &self.zipf {
            None => self.seeded.below(bound),
            // Scattered, so that the popular ones do not lie side by side.
            Some(zipf) => (Seeded::new(zipf.rank(&mut self.seeded)).number() >> 8) % bound,
        }
    }

    fn controller(&mut self) -> Operation {
        let new = self.round * 1_000_000 + self.number;
        let user = self.pick(self.records / OF_USER);
        let purpose = self.pick(PURPOSES);
        match self.seeded.below(12) {
            0..3 => Operation::Create { record: self.records + new },
            3 => Operation::DeleteByPurpose { purpose },
            4 => Operation::DeleteByExpiry { day: 1 + self.seeded.below(DAYS / 10) },
            5 => Operation::DeleteByUser { user },
            6..8 => Operation::ChangeMetadataByPurpose { purpose, new },
            8..10 => Operation::ChangeMetadataByUser { user, new },
            _ => Operation::ChangeMetadataByRecipient { recipient: self.pick(RECIPIENTS), new },
        }
    }

    fn customer(&mut self) -> Operation {
        let (record, new) = (self.pick(self.records), self.round * 1_000_000 + self.number);
        match self.seeded.below(5) {
            0 => Operation::ReadByKey { record },
            1 => Operation::ReadMetadataByKey { record },
            2 => Operation::ChangeByKey { record, new },
            3 => Operation::ChangeMetadataByKey { record, new },
            _ => Operation::DeleteByKey { record },
        }
    }

    fn processor(&mut self) -> Operation {
        let purpose = self.pick(PURPOSES);
        match self.seeded.below(15) {
            0..12 => Operation::ReadByKey { record: self.pick(self.records) },
            12 => Operation::ReadByPurpose { purpose },
            13 => Operation::ReadByObjection { purpose },
            // Every second purpose decides by itself.
            _ => Operation::ReadByDecision { purpose: purpose / 2 * 2 },
        }
    }

    fn regulator(&mut self) -> Operation {
        match self.seeded.below(100) {
            0..46 => Operation::ReadMetadataByUser { user: self.pick(self.records / OF_USER) },
            46..77 => Operation::ReadLog { from: self.seeded.below(self.records / 2) },
            _ => Operation::VerifyDeletion { user: self.records + self.seeded.below(GONE) },
        }
    }
}

impl Iterator for Operations {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        self.number += 1;
        Some(match self.persona {
            Persona::Controller => self.controller(),
            Persona::Customer => self.customer(),
            Persona::Processor => self.processor(),
            Persona::Regulator => self.regulator(),
        })
    }
}

/// Ranks by a Zipf distribution of exponent 0.99, by the method of Gray et al. ("Quickly generating billion-record synthetic
/// databases", SIGMOD 1994).
struct Zipf {
    items: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    fn new(items: u64) -> Zipf {
        let zeta = |count: u64| (1..=count).map(|n| (n as f64).powf(-Self::THETA)).sum::<f64>();
        let (all, count) = (zeta(items), items as f64);
        let eta = (1.0 - (2.0 / count).powf(1.0 - Self::THETA)) / (1.0 - zeta(2) / all);
        Zipf { items: count, zeta: all, eta }
    }

    fn rank(&self, seeded: &mut Seeded) -> u64 {
        let even = (seeded.number() >> 11) as f64 / (1u64 << 53) as f64;
        let scaled = even * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(Self::THETA) {
            return 1;
        }
        (self.items * (self.eta * even - self.eta + 1.0).powf(1.0 / (1.0 - Self::THETA))) as u64
    }
}
