//! What drivers say over their sockets; each event does what its REST twin does.

use std::sync::Arc;

use garde::Validate;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use shared::{ids::DriverId, problem::Code};
use socketioxide::{
    ParserError, SocketIo,
    extract::{AckSender, SocketRef, State, TryData},
    handler::{FromMessageParts, MessageHandler, Value as RawValue},
    socket::Socket,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    Adapter, Session, Unfit,
    flood::{Flood, Verdict},
};
use crate::{
    app::App,
    dispatch::{self, AnswerRequest},
    drivers::{PositionsInput, Reporter, Taken},
    http::Problem,
};

/// `location:update`. Taken where it is read: a task of its own for each, as the library gives its other handlers, costs
/// more than the position, and lets a later one overtake. Most clients ask for no acknowledgement, which would cost as much
/// as the message; who asks for one on a trip has it once the position is stored.
pub(super) struct LocationUpdate {
    pub(super) app: App,
    pub(super) reporter: Reporter,
    pub(super) flood: Arc<Flood>,
    /// Acknowledgements that may wait at once until positions are stored.
    pub(super) acks: Arc<Semaphore>,
}

/// An app that waits for more of them than this is sent away.
pub(super) const ACKS_AT_ONCE: usize = 64;

/// Tells this handler from the library's own, which are made of functions.
pub(super) enum InPlace {}

impl MessageHandler<Adapter, InPlace> for LocationUpdate {
    fn call(&self, socket: Arc<Socket<Adapter>>, mut value: RawValue, ack_id: Option<i64>) {
        let Ok(ack) = AckSender::from_message_parts(&socket, &mut value, &ack_id);
        // Before anything is done with it: a flood costs next to nothing.
        if let Err(problem) = admit(&socket, self.flood.positions(1)) {
            return send_taken(ack, ack_id, Err(problem));
        }
        let input = read_positions(&socket, &mut value, ack_id);
        let input = input.and_then(|input| check(&input).map(|()| input));
        let (mut positions, now) = match input {
            Ok(input) => {
                let now = self.app.clock.now();
                (input.received_at(now), now)
            }
            Err(problem) => return send_taken(ack, ack_id, Err(problem)),
        };
        if positions.len() > 1
            && let Err(problem) = admit(&socket, self.flood.positions(positions.len() - 1))
        {
            return send_taken(ack, ack_id, Err(problem));
        }
        self.app.drivers.taken.socket.increment(positions.len() as u64);
        let known = self.reporter.take_known(&self.app, &mut positions, now);
        if let Some(taken) = known
            && !(taken.is_of_trip() && ack_id.is_some())
        {
            return send_taken(ack, ack_id, Ok(taken));
        }
        let Ok(waits) = self.acks.clone().try_acquire_owned() else {
            let problem = Problem::new(Code::Unavailable, "too much waits to be stored; send it again");
            return send_taken(ack, ack_id, Err(problem));
        };
        let (app, reporter) = (self.app.clone(), self.reporter.clone());
        self.app.spawn(async move {
            let _waits = waits;
            let limit = app.config.http.request_timeout;
            let kept = async {
                let taken = match known {
                    Some(taken) => taken,
                    None => reporter.take(&app, &mut positions, now).await?,
                };
                if ack_id.is_some() {
                    taken.keep(&app).await?;
                }
                Ok(taken)
            };
            let too_long = |_| Err(Problem::new(Code::RequestTimeout, "it took too long; send it again"));
            send_taken(ack, ack_id, tokio::time::timeout(limit, kept).await.unwrap_or_else(too_long));
        });
    }
}

/// Positions have no attachments, for which the library looks into every value it reads; it says what is wrong where they
/// cannot be read without.
fn read_positions(
    socket: &Arc<Socket<Adapter>>,
    value: &mut RawValue,
    ack_id: Option<i64>,
) -> Result<PositionsInput, Problem> {
    if let RawValue::Str(text, _) = &*value
        && let Ok((IgnoredAny, input)) = serde_json::from_str(text.as_str())
    {
        return Ok(input);
    }
    let Ok(TryData(input)) = TryData::from_message_parts(socket, value, &ack_id);
    input.map_err(|error: ParserError| Problem::field("", error.to_string()))
}

/// Refuses a message that is too many; `disconnect_unfit` cuts off who goes on sending them.
fn admit(socket: &Socket<Adapter>, verdict: Verdict) -> Result<(), Problem> {
    match verdict {
        Verdict::Taken => return Ok(()),
        Verdict::Refused => {}
        Verdict::CutOff => {
            socket.extensions.insert(Unfit);
        }
    }
    Err(Problem::new(Code::RateLimited, "this socket sends too much"))
}

fn send_taken(ack: AckSender<Adapter>, ack_id: Option<i64>, taken: Result<Taken, Problem>) {
    if ack_id.is_none() {
        return;
    }
    let answer = match taken {
        Ok(Taken { late_s: None, .. }) => json!({"ok": true}),
        Ok(Taken { late_s: Some(late_s), .. }) => json!({"ok": true, "late_s": late_s}),
        Err(problem) => json!({"ok": false, "code": problem.code()}),
    };
    send(ack, &answer);
}

/// `ride:accept`; acknowledged with the trip, or with the problem.
pub(super) async fn ride_accept(
    socket: SocketRef<Adapter>,
    TryData(request): TryData<AnswerRequest>,
    ack: AckSender<Adapter>,
    State(app): State<App>,
) {
    let accepted = async {
        let (session, driver_id) = driver(&socket)?;
        let AnswerRequest { ride_id } = request.map_err(|error| Problem::field("ride_id", error.to_string()))?;
        dispatch::accept_from_socket(&app, session.caller.tenant(), driver_id, ride_id).await
    };
    match accepted.await {
        Ok(trip) => send(ack, &trip),
        Err(problem) => send(ack, &problem_body(&problem)),
    }
}

/// `ride:decline`; acknowledged with `{ok: true}`, or with the problem.
pub(super) async fn ride_decline(
    socket: SocketRef<Adapter>,
    TryData(request): TryData<AnswerRequest>,
    ack: AckSender<Adapter>,
    State(app): State<App>,
) {
    let declined = async {
        let (session, driver_id) = driver(&socket)?;
        let AnswerRequest { ride_id } = request.map_err(|error| Problem::field("ride_id", error.to_string()))?;
        dispatch::decline_from_socket(&app, session.caller.tenant(), driver_id, ride_id).await
    };
    match declined.await {
        Ok(()) => send(ack, &json!({"ok": true})),
        Err(problem) => send(ack, &problem_body(&problem)),
    }
}

/// Disconnects the sockets whose token has expired, those whose tenant is at home elsewhere by now, and those that read too
/// slowly or send too much.
pub(super) fn disconnect_unfit(io: &SocketIo<Adapter>, app: &App) {
    let now = app.clock.now();
    let directory = app.tenants.directory();
    for socket in io.sockets() {
        let session = socket.extensions.get::<Session>();
        let expired = session.as_ref().is_some_and(|session| session.caller.expires_at <= now);
        let home = session.and_then(|session| directory.homes.get(session.caller.tenant()).cloned());
        let home = home.map(|home| home.region).filter(|home| *home != app.region);
        if let Some(home) = &home {
            let base_url = directory.regions.get(home).map(|region| region.base_url.as_str());
            if let Err(error) = socket.emit("tenant:moved", &json!({"home_region": home, "base_url": base_url})) {
                tracing::debug!(%error, "a socket is not told where its tenant is, only disconnected");
            }
        }
        let unfit = expired || home.is_some() || socket.extensions.get::<Unfit>().is_some();
        if unfit && let Err(error) = socket.disconnect() {
            tracing::debug!(%error, "a socket to be disconnected is gone already, or reads nothing");
        }
    }
}

fn driver(socket: &SocketRef<Adapter>) -> Result<(Session, DriverId), Problem> {
    let missing = || Problem::new(Code::Unauthenticated, "connect again");
    let session = socket.extensions.get::<Session>().ok_or_else(missing)?;
    let flood = socket.extensions.get::<Arc<Flood>>().ok_or_else(missing)?;
    admit(socket, flood.event())?;
    let driver_id = session.caller.driver()?;
    Ok((session, driver_id))
}

fn check(input: &PositionsInput) -> Result<(), Problem> {
    input.validate().map_err(|report| Problem::field("", report.to_string()))
}

fn problem_body(problem: &Problem) -> Value {
    let body = problem.body(&Uuid::now_v7().to_string());
    serde_json::to_value(body).expect("a problem is plain data")
}

fn send(ack: AckSender<Adapter>, answer: &impl serde::Serialize) {
    if let Err(error) = ack.send(answer) {
        tracing::debug!(%error, "an acknowledgement could not be sent");
    }
}
