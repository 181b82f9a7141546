//! What drivers say over their sockets; each event does what its REST twin does.

use garde::Validate;
use serde_json::{Value, json};
use shared::{ids::DriverId, problem::Code};
use socketioxide::{
    SocketIo,
    extract::{AckSender, SocketRef, State, TryData},
};
use uuid::Uuid;

use super::{Adapter, Session};
use crate::{
    app::App,
    dispatch::{self, AnswerRequest},
    drivers::{PositionsInput, take_positions},
    http::Problem,
};

/// `location:update`. Most clients ask for no acknowledgement: one costs more than the position.
pub(super) async fn location_update(
    socket: SocketRef<Adapter>,
    TryData(input): TryData<PositionsInput>,
    ack: AckSender<Adapter>,
    State(app): State<App>,
) {
    let taken = async {
        let (session, driver_id) = driver(&socket)?;
        let input = input.map_err(|error| Problem::field("", error.to_string()))?;
        check(&input)?;
        take_positions(&app, session.caller.tenant(), driver_id, input).await
    };
    let answer = match taken.await {
        Ok(_) => json!({"ok": true}),
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

/// Disconnects the sockets whose token has expired.
pub(super) fn disconnect_expired(io: &SocketIo<Adapter>, app: &App) {
    let now = app.clock.now();
    for socket in io.sockets() {
        let expired = socket.extensions.get::<Session>().is_some_and(|session| session.caller.expires_at <= now);
        if expired && let Err(error) = socket.disconnect() {
            tracing::debug!(%error, "a socket whose token expired is gone already");
        }
    }
}

fn driver(socket: &SocketRef<Adapter>) -> Result<(Session, DriverId), Problem> {
    let missing = || Problem::new(Code::Unauthenticated, "connect again");
    let session = socket.extensions.get::<Session>().ok_or_else(missing)?;
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
