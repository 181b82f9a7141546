//! Going on with payments and refunds that somebody left half done: a node that crashed, a PSP that did not answer, a fee
//! nobody waits for.
//!
//! Any node of the region does it. A movement is claimed with its row, so that two nodes never work on the same one; should
//! a slow one still be at it when its hold has run out, the PSP's idempotency key and the row's lock keep the money right.

use futures::{StreamExt, stream};
use shared::ids::{PaymentId, RefundId, TenantId};
use time::Duration;

use super::{
    Answer, NoAnswer, PaymentError, Phase, Step,
    record::{PaymentRecord, RefundRecord},
    steps, store, webhook,
};
use crate::{app::App, http::Problem};

/// Movements claimed at once, and worked on at once.
const BATCH: i64 = 32;
const AT_ONCE: usize = 8;
/// How long a movement waits while the tenant has switched payments off, or while its payment service is left alone.
const PUT_OFF_FOR: Duration = Duration::minutes(1);

/// Looks for work until the node stops.
pub async fn resume_payments(app: App) {
    loop {
        match run_due(&app).await {
            Ok(done) if done >= BATCH.unsigned_abs() => continue,
            Ok(_) => {}
            Err(problem) => tracing::warn!(%problem, "payments could not be looked for"),
        }
        tokio::time::sleep(app.config.psp.resume_every).await;
    }
}

/// Goes on with what is due; says how much that was.
pub async fn run_due(app: &App) -> Result<u64, Problem> {
    webhook::take_scripted(app).await?;
    let now = app.clock.now();
    let region = app.region.as_str();
    let mut tx = app.db.system().await?;
    let payments = store::claim_due_payments(&mut tx, region, now, app.psp.hold(), BATCH).await?;
    let refunds = store::claim_due_refunds(&mut tx, region, now, app.psp.hold(), BATCH).await?;
    let waiting = store::count_waiting(&mut tx).await?;
    tx.commit().await?;
    show("region_node_payments_unknown", None, waiting.unknown);
    show("region_node_payments_given_up", Some("payment"), waiting.payments_given_up);
    show("region_node_payments_given_up", Some("refund"), waiting.refunds_given_up);
    show("region_node_money_to_attend", Some("refund_sent_back"), waiting.refunds_sent_back);
    show("region_node_money_to_attend", Some("stray_dispute"), waiting.stray_disputes);
    let claimed = (payments.len() + refunds.len()) as u64;
    let payments = payments.into_iter().map(|claim| (claim.is_given_up, Due::Payment(claim.tenant, claim.id)));
    let refunds = refunds.into_iter().map(|claim| (claim.is_given_up, Due::Refund(claim.tenant, claim.id)));
    let (given_up, due): (Vec<_>, Vec<_>) = payments.chain(refunds).partition(|(is_given_up, _)| *is_given_up);
    for (_, movement) in given_up {
        tracing::error!("{movement} is given up: its last attempt, too, was broken off");
    }
    stream::iter(due).for_each_concurrent(AT_ONCE, |(_, due)| due.go_on(app)).await;
    Ok(claimed)
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn show(name: &'static str, what: Option<&'static str>, value: i64) {
    let labels: Vec<_> = what.map(|what| ("what", what)).into_iter().collect();
    metrics::gauge!(name, &labels).set(value as f64);
}

/// One movement of money that has to go on.
pub(super) enum Due {
    Payment(TenantId, PaymentId),
    Refund(TenantId, RefundId),
}

impl Due {
    /// What fails here stays due, later each time, until it is given up: its row says so, and why.
    pub(super) async fn go_on(self, app: &App) {
        let outcome = match &self {
            Self::Payment(tenant, id) => go_on_with_payment(app, tenant, *id).await,
            Self::Refund(tenant, id) => go_on_with_refund(app, tenant, *id).await,
        };
        let Err(problem) = outcome else { return };
        tracing::warn!(%problem, "{self} could not go on");
        let why = problem.to_string();
        let noted = match &self {
            Self::Payment(tenant, id) => steps::hinder_charge(app, tenant, *id, &why).await,
            Self::Refund(tenant, id) => steps::hinder_refund(app, tenant, *id, &why).await,
        };
        if let Err(problem) = noted {
            tracing::warn!(%problem, "{self} is tried again when its hold runs out");
        }
    }
}

impl std::fmt::Display for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Payment(_, id) => write!(f, "payment {id}"),
            Self::Refund(_, id) => write!(f, "refund {id}"),
        }
    }
}

async fn go_on_with_payment(app: &App, tenant: &TenantId, id: PaymentId) -> Result<(), Problem> {
    let payment = load(app, tenant, id).await?;
    let payment = match payment.sequence.step {
        Step::Pending | Step::Unknown if payment.is_from_wallet() => {
            if !app.tenants.config(tenant).await?.config.flags.payments {
                return put_off(app, tenant, id).await;
            }
            return steps::take_from_wallet(app, tenant, id).await;
        }
        Step::Pending | Step::Unknown => {
            if app.psp.admit(&payment.provider).is_err() {
                return put_off(app, tenant, id).await;
            }
            let may_charge = app.tenants.config(tenant).await?.config.flags.payments;
            match steps::find_or_charge(app, tenant, &payment, may_charge).await {
                Some(answer) => steps::record_charge(app, tenant, id, &answer).await?,
                None => return put_off(app, tenant, id).await,
            }
        }
        Step::Authorized | Step::Settled | Step::Failed => payment,
    };
    if payment.sequence.step == Step::Authorized {
        let mut tx = app.db.begin_step(tenant).await?;
        let payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
        let payment = steps::settle_payment(&mut tx, payment, app.clock.now()).await?;
        payment.passing().at(app, Phase::Settling).await;
        tx.commit().await?;
        payment.passing().at(app, Phase::Settled).await;
        tracing::info!(payment.id = %id, "payment {id} is settled after all");
    }
    Ok(())
}

async fn go_on_with_refund(app: &App, tenant: &TenantId, id: RefundId) -> Result<(), Problem> {
    let mut tx = app.db.read(tenant).await?;
    let refund = store::load_refund(&mut tx, id).await?.ok_or(PaymentError::NoSuchRefund(id))?;
    drop(tx);
    let refund = match refund.sequence.step {
        Step::Pending | Step::Unknown => {
            let payment = load(app, tenant, refund.payment_id).await?;
            if app.psp.admit(&payment.provider).is_err() {
                return put_refund_off(app, tenant, id).await;
            }
            let answer: Result<Answer, NoAnswer> = steps::find_or_refund(app, tenant, &payment, &refund).await;
            steps::record_refund(app, tenant, id, &answer).await?
        }
        Step::Authorized | Step::Settled | Step::Failed => refund,
    };
    if refund.sequence.step == Step::Authorized {
        let mut tx = app.db.begin_step(tenant).await?;
        steps::settle_refund(&mut tx, &refund, app.clock.now()).await?;
        refund.passing().at(app, Phase::Settling).await;
        tx.commit().await?;
        refund.passing().at(app, Phase::Settled).await;
        tracing::info!(refund.id = %id, "refund {id} is settled after all");
    }
    Ok(())
}

async fn load(app: &App, tenant: &TenantId, id: PaymentId) -> Result<PaymentRecord, Problem> {
    let mut tx = app.db.read(tenant).await?;
    Ok(store::load_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?)
}

/// Lets a payment wait, without an attempt being counted.
pub(super) async fn put_off(app: &App, tenant: &TenantId, id: PaymentId) -> Result<(), Problem> {
    let now = app.clock.now();
    let mut tx = app.db.begin_step(tenant).await?;
    let payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    if payment.sequence.awaits_answer() {
        let sequence = payment.sequence.clone().put_off(now + PUT_OFF_FOR);
        store::save_payment(&mut tx, &PaymentRecord { sequence, ..payment }, now).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Lets a refund wait, without an attempt being counted.
async fn put_refund_off(app: &App, tenant: &TenantId, id: RefundId) -> Result<(), Problem> {
    let now = app.clock.now();
    let mut tx = app.db.begin_step(tenant).await?;
    let refund = store::lock_refund(&mut tx, id).await?.ok_or(PaymentError::NoSuchRefund(id))?;
    if refund.sequence.awaits_answer() {
        let sequence = refund.sequence.clone().put_off(now + PUT_OFF_FOR);
        store::save_refund(&mut tx, &RefundRecord { sequence, ..refund }, now).await?;
    }
    tx.commit().await?;
    Ok(())
}
