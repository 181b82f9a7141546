//! The zero-sum ledger's rules: which accounts a movement of money touches and by how much.
//!
//! | account         | positive                        | negative                                  |
//! |-----------------|---------------------------------|-------------------------------------------|
//! | `driver:<id>`   | earned, to be paid out          | owed by the driver (cash trips)           |
//! | `tenant:revenue`| the tenant's commission         |                                           |
//! | `tenant:tax`    | to be passed on                 |                                           |
//! | `tenant:promotions`|                              | paid for riders who had a code            |
//! | `tenant:cash`   | paid back out of the till       | taken without a driver                    |
//! | `tenant:disputes`|                                | taken back by a bank until it is decided  |
//! | `rider:<id>`    | in the rider's wallet           |                                           |
//! | `tenant:credits`|                                 | given to riders into their wallets        |
//! | `tenant:withdrawals`| on its way from wallets back to cards |                                    |
//! | `tenant:payouts`| paid to drivers                 |                                           |
//! | `tenant:suspense`| spent from wallets by entries that are forgotten here | put into them by such entries |
//! | `psp:<name>`    |                                 | taken from riders, not yet paid out to us |
//!
//! A positive amount is owed to the account's holder, a negative one is held by it, so an entry sums to zero. With cash the
//! driver holds the whole fare: it stands against his share on his own account, which leaves him owing commission and tax; what
//! he earns by cards makes up for it before anything is paid out to him. A rider's wallet is never below zero: the database keeps
//! its balance with the postings and refuses what would overdraw it.

use std::fmt;

use shared::{
    fact::{Fact, LedgerEntry, WalletMoved},
    ids::{CreditId, DriverId, FactId, PaymentId, PayoutId, RefundId, RiderId, TenantId, TripId},
    money::Currency,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    DisputeStatus,
    payment::named,
    record::{PaymentRecord, RefundRecord},
};
use crate::pricing::Fare;

/// Who shares an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// The tax office's.
    pub(super) tax: i64,
    /// The tenant's.
    pub(super) commission: i64,
    /// The driver's.
    pub(super) driver: i64,
    /// What the tenant pays of it, for a promotion; the amount is the others' less this.
    pub(super) promotion: i64,
}

/// Where money is booked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Account {
    /// What a PSP has taken for us.
    Psp(String),
    /// A driver's balance.
    Driver(DriverId),
    /// A rider's wallet.
    Rider(RiderId),
    /// The tenant's earnings.
    Revenue,
    /// The tax the tenant passes on.
    Tax,
    /// What promotions have cost the tenant.
    Promotions,
    /// The tenant's till.
    Cash,
    /// What banks have taken back and nobody has decided about.
    Disputes,
    /// What riders were given into their wallets.
    Credits,
    /// What is on its way from riders' wallets back to their cards.
    Withdrawals,
    /// What drivers were paid.
    Payouts,
    /// The other side of what wallets moved by entries that are forgotten here.
    Suspense,
}

/// One line of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Posting {
    /// Where.
    pub(super) account: Account,
    /// Minor units of the entry's currency.
    pub(super) amount: i64,
}

/// A balanced set of postings; its id is the id of the fact other regions learn, made of what it is about: booked again
/// after an old backup was restored, it is the same fact and counts once. It is of a payment, and perhaps of its refund, of a
/// payout or of a credit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: FactId,
    pub(super) kind: EntryKind,
    pub(super) payment_id: Option<PaymentId>,
    pub(super) refund_id: Option<RefundId>,
    pub(super) payout_id: Option<PayoutId>,
    pub(super) credit_id: Option<CreditId>,
    pub(super) currency: Currency,
    pub(super) postings: Vec<Posting>,
    pub(super) posted_at: OffsetDateTime,
}

named! {
    /// Why money moved.
    pub(super) EntryKind {
        /// A trip was paid.
        Settlement = "settlement",
        /// A payment went back, or a part of it.
        Refund = "refund",
        /// A ride was given up too late.
        CancellationFee = "cancellation_fee",
        /// A rider did not come.
        NoShowFee = "no_show_fee",
        /// A dispute was opened or decided, a bank sent a refund back, or what was taken out of a wallet for one is in it again.
        Adjustment = "adjustment",
        /// A rider gave the driver something.
        Tip = "tip",
        /// A rider put something into his wallet.
        TopUp = "top_up",
        /// What was left of a top-up was taken out of the wallet, to go back to where it came from.
        Withdrawal = "withdrawal",
        /// The driver was paid.
        Payout = "payout",
        /// A rider was given something into his wallet.
        Credit = "credit",
        /// A wallet had moved before an old backup was restored, as other regions remember.
        Recovered = "recovered",
    }
}

impl EntryKind {
    /// Whether an entry of this kind is the one a payment is settled by.
    pub(super) fn settles(self) -> bool {
        match self {
            Self::Settlement | Self::CancellationFee | Self::NoShowFee | Self::Tip | Self::TopUp => true,
            Self::Refund | Self::Adjustment | Self::Withdrawal | Self::Payout | Self::Credit | Self::Recovered => false,
        }
    }
}

/// Who takes part in a payment besides the tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parties {
    /// Where the money comes from, and goes back to.
    pub(super) source: Source,
    /// Whose trip it was.
    pub(super) driver: Option<DriverId>,
}

/// Where a payment's money comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A card, by way of the PSP that takes the money.
    Psp(String),
    /// The wallet of this rider.
    Wallet(RiderId),
    /// The rider's hand into the driver's.
    Cash,
}

impl Entry {
    /// The only id a payment's settlement can have.
    pub(super) fn id_of_settlement(payment: PaymentId) -> FactId {
        derived("settlement", payment.0)
    }

    /// The only id the entry can have that a dispute makes when it comes to `status`.
    pub(super) fn id_of_dispute(dispute: Uuid, status: DisputeStatus) -> FactId {
        derived(&format!("dispute {status}"), dispute)
    }

    /// The only id a refund's entry can have; of a top-up's, the one that takes it out of the wallet.
    pub(super) fn id_of_refund(refund: RefundId) -> FactId {
        derived("refund", refund.0)
    }

    /// The only id the entry can have by which what was taken out of a wallet is given back.
    pub(super) fn id_of_withdrawal_paid(refund: RefundId) -> FactId {
        derived("withdrawal paid", refund.0)
    }

    /// The only entry by which a refund comes to nothing, refused or sent back.
    pub(super) fn of_refund_undone(refund: &RefundRecord, postings: Vec<Posting>, now: OffsetDateTime) -> Self {
        Self {
            id: derived("refund sent back", refund.id.0),
            kind: EntryKind::Adjustment,
            payment_id: Some(refund.payment_id),
            // The entry that has it is the refund's own.
            refund_id: None,
            payout_id: None,
            credit_id: None,
            currency: refund.amount.currency,
            postings,
            posted_at: now,
        }
    }

    /// The only id a payout's entry, and the fact of it, can have.
    pub(super) fn id_of_payout(payout: PayoutId) -> FactId {
        derived("payout", payout.0)
    }

    /// The only id a credit's entry can have.
    pub(super) fn id_of_credit(credit: CreditId) -> FactId {
        derived("credit", credit.0)
    }

    /// Whose wallet it moves, and by how much, if it moves one.
    pub(super) fn moves_wallet(&self) -> Option<(RiderId, i64)> {
        self.postings.iter().find_map(|posting| match posting.account {
            Account::Rider(rider) => Some((rider, posting.amount)),
            _ => None,
        })
    }

    /// What other regions learn of the wallet it moves, asked for at `asked_at`; see [`Self::told`].
    pub(super) fn told_of_wallet(&self, tenant: &TenantId, asked_at: OffsetDateTime) -> Option<Fact> {
        let (rider, amount) = self.moves_wallet()?;
        Some(Fact::Wallet(WalletMoved {
            fact_id: derived("wallet", self.id.0).0,
            entry_id: self.id.0,
            payment_id: self.payment_id.map(|payment| payment.0),
            rider_id: rider.0,
            tenant: tenant.to_string(),
            amount,
            currency: self.currency.to_string(),
            moved_at: asked_at,
        }))
    }

    /// What is left to book of it once the wallet it moves is known from other regions to have moved: [`recovered`] is taken out of
    /// suspense. Other regions know the whole by the fact it had before.
    pub(super) fn after_recovery(mut self) -> Self {
        self.id = derived("after recovery", self.id.0);
        for posting in &mut self.postings {
            if matches!(posting.account, Account::Rider(_)) {
                posting.account = Account::Suspense;
            }
        }
        self
    }

    /// What other regions learn of it, as the body of a fact: that the payment of `trip` it is about moved `amount`, asked for at
    /// `asked_at`. All of that is of the intent, or of what the payment service tells of the dispute, its time included, so whoever
    /// books the entry again, since an old backup was restored, tells the very same fact, and every region's set of facts stays as
    /// it is.
    pub(super) fn told(
        &self,
        tenant: &TenantId,
        payment: &PaymentRecord,
        trip: TripId,
        amount: i64,
        asked_at: OffsetDateTime,
    ) -> LedgerEntry {
        LedgerEntry {
            fact_id: self.id.0,
            payment_id: payment.id.0,
            trip_id: trip.0,
            tenant: tenant.to_string(),
            amount,
            currency: self.currency.to_string(),
            settled_at: asked_at,
        }
    }
}

/// The only id a dispute about a payment can have that the PSP knows as `reference`.
pub(super) fn id_of_dispute(payment: PaymentId, reference: &str) -> Uuid {
    derived(&format!("dispute {reference}"), payment.0).0
}

/// A UUIDv8 that is always the same for the same thing.
pub(super) fn derived(kind: &str, id: Uuid) -> FactId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes()).update(&[0]).update(id.as_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    FactId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

impl Split {
    /// Divides a fare of `total` before its promotion: its tax first, then the tenant's `commission_percent` of the rest, rounded
    /// half up. Tolls are what the driver laid out: he has them back whole. A promotion is the tenant's cost, and nobody's loss.
    pub(super) fn of_fare(total: i64, tax: i64, tolls: i64, promotion: i64, commission_percent: u8) -> Self {
        let tax = tax.clamp(0, total);
        let tolls = tolls.clamp(0, total - tax);
        let net = i128::from(total - tax - tolls);
        let commission = (net * i128::from(commission_percent.min(100)) + 50) / 100;
        let commission = i64::try_from(commission).expect("a share of an i64 is an i64");
        Self { tax, commission, driver: total - tax - commission, promotion: promotion.clamp(0, total) }
    }

    /// Divides a fare.
    pub(super) fn of(fare: &Fare, commission_percent: u8) -> Self {
        let promotion = fare.promotion();
        Self::of_fare(fare.total.amount + promotion, fare.tax(), fare.tolls(), promotion, commission_percent)
    }

    /// Divides a divided fare again, between those who pay it: each share's part of everything, and what is left of it. `amounts`
    /// are at least 1 each, and together at most the total.
    pub(super) fn shared(self, amounts: &[i64]) -> (Vec<Self>, Self) {
        let mut left = self;
        let parts = amounts.iter().map(|&amount| {
            let part = left.part(amount).expect("shares of a fare stay within its total");
            left = left.minus(part);
            part
        });
        (parts.collect(), left)
    }

    /// As it is stored: the driver's is what is left of `amount`, which the rider pays, and the promotion.
    pub(super) fn of_amount(amount: i64, tax: i64, commission: i64, promotion: i64) -> Self {
        Self { tax, commission, driver: amount + promotion - tax - commission, promotion }
    }

    /// A tip is the driver's.
    pub(super) fn of_tip(tip: i64) -> Self {
        Self::of_amount(tip, 0, 0, 0)
    }

    /// A cancellation fee is for the driver's time; where there is no driver it is the tenant's.
    pub(super) fn of_cancellation_fee(fee: i64, driver: Option<DriverId>) -> Self {
        match driver {
            Some(_) => Self::of_amount(fee, 0, 0, 0),
            None => Self::of_amount(fee, 0, fee, 0),
        }
    }

    /// What the rider pays.
    pub(super) fn total(self) -> i64 {
        self.shares().iter().sum::<i64>() - self.promotion
    }

    fn shares(self) -> [i64; 3] {
        [self.tax, self.commission, self.driver]
    }

    /// What is left once `given` is gone.
    pub(super) fn minus(self, given: Self) -> Self {
        Self {
            tax: self.tax - given.tax,
            commission: self.commission - given.commission,
            driver: self.driver - given.driver,
            promotion: self.promotion - given.promotion,
        }
    }

    /// Takes `amount` out of what is left here, from each by its share of it, to the unit: nobody gives more than they have,
    /// the tenant has its part of the promotion back, and who takes everything takes each share whole. None if `amount` is more
    /// than there is.
    pub(super) fn part(self, amount: i64) -> Option<Self> {
        let total = self.total();
        if !(0..=total).contains(&amount) {
            return None;
        }
        if total == 0 {
            return Some(self);
        }
        let part_of =
            |product: i128, whole: i64| i64::try_from(product / i128::from(whole)).expect("at most the share");
        let promotion = part_of(i128::from(self.promotion) * i128::from(amount), total);
        let (amount, whole) = (amount + promotion, total + self.promotion);
        let exact = self.shares().map(|share| i128::from(share) * i128::from(amount));
        let mut parts = exact.map(|product| part_of(product, whole));
        let mut by_remainder = [2, 1, 0];
        by_remainder.sort_by_key(|&i| std::cmp::Reverse(exact[i] % i128::from(whole)));
        let missing = usize::try_from(amount - parts.iter().sum::<i64>()).expect("rounding down misses 0 to 2 units");
        for &i in by_remainder.iter().take(missing) {
            parts[i] += 1;
        }
        let [tax, commission, driver] = parts;
        Some(Self { tax, commission, driver, promotion })
    }
}

/// What a settled payment posts.
pub(super) fn settlement(split: Split, parties: &Parties) -> Vec<Posting> {
    let holder = match (&parties.source, parties.driver) {
        (Source::Psp(psp), _) => Account::Psp(psp.clone()),
        (Source::Wallet(rider), _) => Account::Rider(*rider),
        (Source::Cash, Some(driver)) => Account::Driver(driver),
        (Source::Cash, None) => Account::Cash,
    };
    postings(holder, split, parties, 1)
}

/// What a settled top-up posts.
pub(super) fn top_up(amount: i64, rider: RiderId, psp: &str) -> Vec<Posting> {
    let psp = Account::Psp(psp.to_owned());
    vec![Posting { account: psp, amount: -amount }, Posting { account: Account::Rider(rider), amount }]
}

/// What a settled refund posts: each gives their part back; the PSP, or the tenant's till, has paid it out, or it is in the wallet
/// again.
pub(super) fn refund(split: Split, parties: &Parties) -> Vec<Posting> {
    let payer = match &parties.source {
        Source::Psp(psp) => Account::Psp(psp.clone()),
        Source::Wallet(rider) => Account::Rider(*rider),
        Source::Cash => Account::Cash,
    };
    postings(payer, split, parties, -1)
}

/// What a refund posts that its bank has sent back: all that it posted when it was settled, the other way round.
pub(super) fn refund_sent_back(split: Split, parties: &Parties) -> Vec<Posting> {
    refund(split, parties).into_iter().map(|posting| Posting { amount: -posting.amount, ..posting }).collect()
}

/// What is posted when a top-up, or a part of it, is to go back: from here on the rider cannot spend it.
pub(super) fn withdrawal(amount: i64, rider: RiderId) -> Vec<Posting> {
    let rider = Account::Rider(rider);
    vec![Posting { account: rider, amount: -amount }, Posting { account: Account::Withdrawals, amount }]
}

/// What is posted when the PSP has given back what was withdrawn.
pub(super) fn withdrawal_paid(amount: i64, psp: &str) -> Vec<Posting> {
    let psp = Account::Psp(psp.to_owned());
    vec![Posting { account: Account::Withdrawals, amount: -amount }, Posting { account: psp, amount }]
}

/// What is posted when a withdrawal comes to nothing: the PSP has refused it, or, where `paid_by` says who had given it back, the bank
/// has sent it back to them.
pub(super) fn withdrawal_undone(amount: i64, rider: RiderId, paid_by: Option<&str>) -> Vec<Posting> {
    let from = paid_by.map_or(Account::Withdrawals, |psp| Account::Psp(psp.to_owned()));
    vec![Posting { account: from, amount: -amount }, Posting { account: Account::Rider(rider), amount }]
}

/// What a dispute posts when it comes to `status`: the PSP takes the money from us as long as nobody knows better; then it
/// comes back, or the tenant bears it.
pub(super) fn dispute(status: DisputeStatus, amount: i64, psp: &str) -> Vec<Posting> {
    let psp = Account::Psp(psp.to_owned());
    let (to, from) = match status {
        DisputeStatus::Open => (psp, Account::Disputes),
        DisputeStatus::Won => (Account::Disputes, psp),
        DisputeStatus::Lost => (Account::Disputes, Account::Revenue),
    };
    vec![Posting { account: to, amount }, Posting { account: from, amount: -amount }]
}

/// What a payout posts.
pub(super) fn payout(amount: i64, driver: DriverId) -> Vec<Posting> {
    vec![Posting { account: Account::Driver(driver), amount: -amount }, Posting { account: Account::Payouts, amount }]
}

/// What a credit posts: it is the tenant's cost.
pub(super) fn credit(amount: i64, rider: RiderId) -> Vec<Posting> {
    vec![Posting { account: Account::Rider(rider), amount }, Posting { account: Account::Credits, amount: -amount }]
}

/// What is posted of a wallet that moved by an entry forgotten here: nobody knows any more what for.
pub(super) fn recovered(amount: i64, rider: RiderId) -> Vec<Posting> {
    vec![Posting { account: Account::Rider(rider), amount }, Posting { account: Account::Suspense, amount: -amount }]
}

fn postings(holder: Account, split: Split, parties: &Parties, sign: i64) -> Vec<Posting> {
    let driver = parties.driver.map_or(Account::Revenue, Account::Driver);
    let lines = [
        (holder, -split.total()),
        (driver, split.driver),
        (Account::Revenue, split.commission),
        (Account::Tax, split.tax),
        (Account::Promotions, -split.promotion),
    ];
    let lines = lines.into_iter().filter(|(_, amount)| *amount != 0);
    lines.map(|(account, amount)| Posting { account, amount: sign * amount }).collect()
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Psp(name) => write!(f, "psp:{name}"),
            Self::Driver(id) => write!(f, "driver:{id}"),
            Self::Rider(id) => write!(f, "rider:{id}"),
            Self::Revenue => f.write_str("tenant:revenue"),
            Self::Tax => f.write_str("tenant:tax"),
            Self::Promotions => f.write_str("tenant:promotions"),
            Self::Cash => f.write_str("tenant:cash"),
            Self::Disputes => f.write_str("tenant:disputes"),
            Self::Credits => f.write_str("tenant:credits"),
            Self::Withdrawals => f.write_str("tenant:withdrawals"),
            Self::Payouts => f.write_str("tenant:payouts"),
            Self::Suspense => f.write_str("tenant:suspense"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_split() -> impl Strategy<Value = Split> {
        let parts = (0..10_000_000_000_i64, 0..=100_u8, 0..=100_i64, 0..=100_i64, 0..=100_i64);
        parts.prop_map(|(total, commission_percent, tax_percent, tolls_percent, promotion_percent)| {
            let part = |percent| total / 100 * percent;
            Split::of_fare(total, part(tax_percent), part(tolls_percent), part(promotion_percent), commission_percent)
        })
    }

    fn any_parties() -> impl Strategy<Value = Parties> {
        let source = prop_oneof![
            Just(Source::Psp("sandbox".to_owned())),
            Just(()).prop_map(|()| Source::Wallet(RiderId::new())),
            Just(Source::Cash),
        ];
        (source, any::<bool>()).prop_map(|(source, driver)| Parties { source, driver: driver.then(DriverId::new) })
    }

    fn sum(postings: &[Posting]) -> i64 {
        postings.iter().map(|posting| posting.amount).sum()
    }

    fn on(postings: &[Posting], account: &Account) -> i64 {
        postings.iter().filter(|posting| posting.account == *account).map(|posting| posting.amount).sum()
    }

    #[test]
    fn a_card_trip_pays_driver_tenant_and_tax_out_of_what_the_psp_took() {
        let driver = DriverId::new();
        let parties = Parties { source: Source::Psp("sandbox".into()), driver: Some(driver) };
        let postings = settlement(Split::of_fare(1_100, 100, 0, 0, 20), &parties);
        assert_eq!(on(&postings, &Account::Psp("sandbox".into())), -1_100);
        assert_eq!(on(&postings, &Account::Driver(driver)), 800);
        assert_eq!(on(&postings, &Account::Revenue), 200);
        assert_eq!(on(&postings, &Account::Tax), 100);
    }

    #[test]
    fn a_cash_trip_leaves_the_driver_owing_commission_and_tax() {
        let driver = DriverId::new();
        let parties = Parties { source: Source::Cash, driver: Some(driver) };
        let postings = settlement(Split::of_fare(1_100, 100, 0, 0, 20), &parties);
        assert_eq!(on(&postings, &Account::Driver(driver)), -300);
        assert_eq!(on(&postings, &Account::Revenue) + on(&postings, &Account::Tax), 300);
    }

    #[test]
    fn an_entry_s_id_is_made_of_what_it_is_about_and_never_changes() {
        let id = Uuid::from_u128(0x0195_5b2e_7000_7000_8000_0000_0000_0001);
        let (settlement, refund) = (Entry::id_of_settlement(id.into()), Entry::id_of_refund(id.into()));
        assert_eq!(settlement, Entry::id_of_settlement(id.into()));
        assert_ne!(settlement, refund);
        assert_eq!((settlement.0.get_version_num(), refund.0.get_version_num()), (8, 8));
        // Other regions keep these for ever: another way to derive them would count old money anew.
        let known = ["c4f479fb-10e4-86d2-8605-3d4aee490d07", "74d082d7-e0aa-854c-bbea-3e98999f09f3"];
        assert_eq!([settlement, refund].map(|id| id.to_string()), known);
    }

    #[test]
    fn a_dispute_ends_with_nothing_disputed_and_the_psp_or_the_tenant_bearing_it() {
        let psp = Account::Psp("sandbox".into());
        let open = dispute(DisputeStatus::Open, 500, "sandbox");
        assert_eq!((sum(&open), on(&open, &psp), on(&open, &Account::Disputes)), (0, 500, -500));
        let won = [open.clone(), dispute(DisputeStatus::Won, 500, "sandbox")].concat();
        assert_eq!((on(&won, &psp), on(&won, &Account::Disputes)), (0, 0));
        let lost = [open, dispute(DisputeStatus::Lost, 500, "sandbox")].concat();
        let ends = [&psp, &Account::Disputes, &Account::Revenue].map(|account| on(&lost, account));
        assert_eq!(ends, [500, 0, -500]);
    }

    #[test]
    fn a_payout_takes_what_the_driver_earned_after_what_he_owes_of_cash() {
        let driver = DriverId::new();
        let split = Split::of_fare(1_100, 100, 0, 0, 20);
        let card = settlement(split, &Parties { source: Source::Psp("sandbox".into()), driver: Some(driver) });
        let cash = settlement(split, &Parties { source: Source::Cash, driver: Some(driver) });
        let paid = [card, cash, payout(500, driver)].concat();
        assert_eq!((sum(&paid), on(&paid, &Account::Driver(driver)), on(&paid, &Account::Payouts)), (0, 0, 500));
    }

    #[test]
    fn a_trip_paid_from_the_wallet_pays_driver_tenant_and_tax_out_of_it_and_goes_back_into_it() {
        let (rider, driver) = (RiderId::new(), DriverId::new());
        let parties = Parties { source: Source::Wallet(rider), driver: Some(driver) };
        let split = Split::of_fare(1_100, 100, 0, 0, 20);
        let paid = [credit(1_500, rider), settlement(split, &parties)].concat();
        let ends = [Account::Rider(rider), Account::Driver(driver), Account::Revenue, Account::Tax, Account::Credits]
            .map(|account| on(&paid, &account));
        assert_eq!((sum(&paid), ends), (0, [400, 800, 200, 100, -1_500]));
        let back = [paid, refund(split, &parties)].concat();
        assert_eq!((on(&back, &Account::Rider(rider)), on(&back, &Account::Driver(driver))), (1_500, 0));
    }

    #[test]
    fn what_is_settled_after_its_wallet_was_recovered_leaves_nothing_in_suspense_and_moves_the_wallet_once() {
        let (rider, driver) = (RiderId::new(), DriverId::new());
        let parties = Parties { source: Source::Wallet(rider), driver: Some(driver) };
        let entry = Entry {
            id: Entry::id_of_settlement(PaymentId::new()),
            kind: EntryKind::Settlement,
            payment_id: None,
            refund_id: None,
            payout_id: None,
            credit_id: None,
            currency: Currency::USD,
            postings: settlement(Split::of_fare(1_100, 100, 0, 0, 20), &parties),
            posted_at: OffsetDateTime::UNIX_EPOCH,
        };
        assert_eq!(entry.moves_wallet(), Some((rider, -1_100)));
        let rest = entry.clone().after_recovery();
        assert_ne!(rest.id, entry.id);
        assert_eq!((rest.moves_wallet(), rest.told_of_wallet(&"cabs".parse().unwrap(), rest.posted_at)), (None, None));
        let both = [recovered(-1_100, rider), rest.postings].concat();
        let ends =
            [Account::Suspense, Account::Rider(rider), Account::Driver(driver)].map(|account| on(&both, &account));
        assert_eq!((sum(&both), ends), (0, [0, -1_100, 800]));
    }

    #[test]
    fn a_withdrawal_ends_with_the_psp_having_given_it_back_or_the_rider_having_it_again() {
        let (rider, psp) = (RiderId::new(), Account::Psp("sandbox".into()));
        let ends = |entries: Vec<Vec<Posting>>| {
            let all = [vec![top_up(1_000, rider, "sandbox"), withdrawal(300, rider)], entries].concat().concat();
            assert_eq!(sum(&all), 0);
            [&Account::Rider(rider), &Account::Withdrawals, &psp].map(|account| on(&all, account))
        };
        assert_eq!(ends(vec![]), [700, 300, -1_000]);
        assert_eq!(ends(vec![withdrawal_paid(300, "sandbox")]), [700, 0, -700]);
        assert_eq!(ends(vec![withdrawal_undone(300, rider, None)]), [1_000, 0, -1_000]);
        let sent_back = vec![withdrawal_paid(300, "sandbox"), withdrawal_undone(300, rider, Some("sandbox"))];
        assert_eq!(ends(sent_back), [1_000, 0, -1_000]);
    }

    #[test]
    fn commission_rounds_half_up() {
        assert_eq!(Split::of_fare(5, 0, 0, 0, 10), Split::of_amount(5, 0, 1, 0));
        assert_eq!(Split::of_fare(4, 0, 0, 0, 10), Split::of_amount(4, 0, 0, 0));
    }

    #[test]
    fn tolls_are_the_driver_s_without_commission() {
        assert_eq!(Split::of_fare(1_800, 100, 700, 0, 20), Split::of_amount(1_800, 100, 200, 0));
        assert_eq!(Split::of_fare(700, 0, 700, 0, 100), Split::of_amount(700, 0, 0, 0));
    }

    #[test]
    fn a_promotion_is_the_tenant_s_cost_and_neither_the_driver_s_nor_the_tax_office_s() {
        let driver = DriverId::new();
        let (with, without) = (Split::of_fare(1_100, 100, 0, 300, 20), Split::of_fare(1_100, 100, 0, 0, 20));
        assert_eq!(with, Split { promotion: 300, ..without });
        let card = settlement(with, &Parties { source: Source::Psp("sandbox".into()), driver: Some(driver) });
        assert_eq!((on(&card, &Account::Psp("sandbox".into())), on(&card, &Account::Driver(driver))), (-800, 800));
        assert_eq!((on(&card, &Account::Promotions), on(&card, &Account::Revenue)), (-300, 200));
        // The driver has 800 in hand, of which all is his; the tenant owes nobody but the tax office.
        let cash = settlement(with, &Parties { source: Source::Cash, driver: Some(driver) });
        assert_eq!(on(&cash, &Account::Driver(driver)), 0);
        // Half of it goes back: half of what the promotion cost, too.
        assert_eq!(with.part(400), Some(Split::of_amount(400, 50, 100, 150)));
    }

    proptest! {
        #[test]
        fn every_entry_sums_to_zero_and_moves_its_amount(split in any_split(), parties in any_parties()) {
            prop_assert!(split.tax >= 0 && split.commission >= 0 && split.driver >= 0 && split.promotion >= 0);
            prop_assert!(split.total() >= 0);
            let settled = settlement(split, &parties);
            prop_assert_eq!(sum(&settled), 0);
            let refunded = refund(split, &parties);
            prop_assert_eq!(sum(&refunded), 0);
            if parties.source != Source::Cash {
                prop_assert_eq!(sum(&[settled, refunded].concat()), 0);
                let reversed = parties.driver.is_none_or(|driver| {
                    let account = Account::Driver(driver);
                    on(&settlement(split, &parties), &account) == -on(&refund(split, &parties), &account)
                });
                prop_assert!(reversed);
            }
        }

        #[test]
        fn shares_of_a_fare_sum_to_it_in_every_part(
            split in any_split(), asked in prop::collection::vec(0.0..1.0_f64, 0..8),
        ) {
            let mut left = split.total();
            let amounts = asked.iter().map(|part| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any part will do")]
                let amount = (left as f64 * part) as i64;
                left -= amount;
                amount
            });
            let amounts: Vec<_> = amounts.filter(|amount| *amount > 0).collect();
            let (parts, own) = split.shared(&amounts);
            for (part, amount) in parts.iter().zip(&amounts) {
                prop_assert_eq!(part.total(), *amount);
            }
            let all = parts.iter().chain([&own]);
            prop_assert!(all.clone().all(|part| [part.tax, part.commission, part.driver, part.promotion].iter().all(|part| *part >= 0)));
            prop_assert_eq!(parts.iter().fold(split, |left, part| left.minus(*part)), own);
        }

        #[test]
        fn refunds_stay_within_the_total_and_end_with_nobody_holding_anything(
            split in any_split(), parts in prop::collection::vec(0.0..1.0_f64, 0..12),
        ) {
            let mut left = split;
            for part in parts {
                #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any part will do")]
                let amount = (left.total() as f64 * part) as i64;
                let given = left.part(amount).unwrap();
                prop_assert_eq!(given.total(), amount);
                prop_assert!(given.tax >= 0 && given.commission >= 0 && given.driver >= 0);
                left = left.minus(given);
                prop_assert!(left.tax >= 0 && left.commission >= 0 && left.driver >= 0 && left.promotion >= 0);
                prop_assert!(left.total() >= 0);
            }
            prop_assert_eq!(left.part(left.total() + 1), None);
            prop_assert_eq!(left.part(-1), None);
            prop_assert_eq!(left.part(left.total()), Some(left));
        }
    }
}
