//! A rider who does what a test says.

use shared::ids::{RideId, RiderId, TripId};
use tokio_util::task::TaskTracker;

use super::{Spot, eventually};
use crate::{
    api::{Client, Payment, PaymentStatus, Ride, RideStatus},
    socket::Socket,
};

#[derive(Clone)]
pub struct Rider {
    pub client: Client,
    pub id: RiderId,
    pub(super) tasks: TaskTracker,
}

impl Rider {
    /// Asks for a ride at a spot.
    pub async fn request(&self, spot: &Spot) -> Ride {
        self.client.request_ride(&spot.journey(), None).await.expect("a ride can be asked for")
    }

    /// Waits until the ride has this status.
    pub async fn sees(&self, ride: RideId, status: RideStatus) -> Ride {
        eventually(&format!("ride {ride} is {status:?}"), async || {
            let ride = self.client.ride(ride).await.map_err(|error| error.to_string())?;
            if ride.status == status { Ok(ride) } else { Err(format!("{:?}", ride.status)) }
        })
        .await
    }

    /// Pays and waits until the money has moved.
    pub async fn pay(&self, trip: TripId) -> Payment {
        let payment = self.client.pay(trip).await.expect("a trip can be paid");
        eventually("the payment is settled", async || {
            let payment = self.client.payment(payment.id).await.map_err(|error| error.to_string())?;
            if payment.status == PaymentStatus::Settled { Ok(payment) } else { Err(format!("{:?}", payment.status)) }
        })
        .await
    }

    /// A socket to the address this rider speaks to.
    pub async fn socket(&self) -> Socket {
        Socket::connect(&self.client, &self.tasks).await.expect("a rider can connect")
    }
}
