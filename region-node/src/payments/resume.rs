//! Going on with payments and refunds that somebody left half done: a node that crashed, a PSP that did not answer, a fee
//! nobody waits for.
//!
//! Any node of the region does it. A movement is claimed with its row, so that two nodes never work on the same one; should
//! a slow one still be at it when its hold has run out, the PSP's idempotency key and the row's lock keep the money right.

use futures::{StreamExt, stream};
use shared::ids::{PaymentId, RefundId, TenantId};
use time::Duration;

use super::{
    Answer, NoAnswer, PaymentError, Step,
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
    let unknown = store::count_unknown(&mut tx).await?;
    tx.commit().await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    metrics::gauge!("region_node_payments_unknown").set(unknown as f64);
    let due = (payments.len() + refunds.len()) as u64;
    let payments = stream::iter(payments).map(|(tenant, id)| Due::Payment(tenant, id));
    let refunds = stream::iter(refunds).map(|(tenant, id)| Due::Refund(tenant, id));
    payments.chain(refunds).for_each_concurrent(AT_ONCE, |due| due.go_on(app)).await;
    Ok(due)
}

/// One movement of money that has to go on.
enum Due {
    Payment(TenantId, PaymentId),
    Refund(TenantId, RefundId),
}

impl Due {
    /// What fails here stays due: its row says so.
    async fn go_on(self, app: &App) {
        let (what, id, outcome) = match self {
            Self::Payment(tenant, id) => ("payment", id.0, go_on_with_payment(app, &tenant, id).await),
            Self::Refund(tenant, id) => ("refund", id.0, go_on_with_refund(app, &tenant, id).await),
        };
        if let Err(problem) = outcome {
            tracing::warn!(%problem, "{what} {id} could not go on; it will be tried again");
        }
    }
}

async fn go_on_with_payment(app: &App, tenant: &TenantId, id: PaymentId) -> Result<(), Problem> {
    let payment = load(app, tenant, id).await?;
    let payment = match payment.sequence.step {
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
        let mut tx = app.db.begin(tenant).await?;
        let payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
        steps::settle_payment(&mut tx, payment, app.clock.now()).await?;
        tx.commit().await?;
        tracing::info!(payment.id = %id, "payment {id} is settled after all");
    }
    Ok(())
}

async fn go_on_with_refund(app: &App, tenant: &TenantId, id: RefundId) -> Result<(), Problem> {
    let mut tx = app.db.read(tenant).await?;
    let refund = store::load_refund(&mut tx, id).await?.ok_or_else(|| no_refund(id))?;
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
        let mut tx = app.db.begin(tenant).await?;
        steps::settle_refund(&mut tx, &refund, app.clock.now()).await?;
        tx.commit().await?;
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
    let mut tx = app.db.begin(tenant).await?;
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
    let mut tx = app.db.begin(tenant).await?;
    let refund = store::lock_refund(&mut tx, id).await?.ok_or_else(|| no_refund(id))?;
    if refund.sequence.awaits_answer() {
        let sequence = refund.sequence.clone().put_off(now + PUT_OFF_FOR);
        store::save_refund(&mut tx, &RefundRecord { sequence, ..refund }, now).await?;
    }
    tx.commit().await?;
    Ok(())
}

fn no_refund(id: RefundId) -> Problem {
    Problem::not_found(format!("no refund {id}"))
}
