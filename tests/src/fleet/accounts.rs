//! Who the simulated people are. All of it is made up, and the same for the same seed: a demo started again finds its people.

use crate::api::{ApiError, Client, Credentials, Vehicle};

const FIRST_NAMES: [&str; 16] = [
    "Ada", "Bruno", "Chandra", "Dora", "Emil", "Fatima", "Gaurav", "Helena", "Ivo", "Jaya", "Kofi", "Lídia", "Mateus",
    "Nandini", "Oscar", "Priya",
];
const LAST_NAMES: [&str; 12] =
    ["Almeida", "Brandt", "Costa", "Das", "Evans", "Ferreira", "Gowda", "Hughes", "Iyer", "Jensen", "Kapoor", "Lopes"];
const MODELS: [&str; 5] = ["Toyota Camry", "Škoda Octavia", "Maruti Dzire", "Mercedes E 220", "Hyundai Ioniq"];
const PASSWORD: &str = "simulated-people-only";

pub(super) fn name(number: usize) -> String {
    format!("{} {}", FIRST_NAMES[number % FIRST_NAMES.len()], LAST_NAMES[number / FIRST_NAMES.len() % LAST_NAMES.len()])
}

/// A number of no network: the country code 999 is not assigned.
pub(super) fn phone(role: u64, seed: u64, number: usize) -> String {
    format!("+999{role}{:04}{number:05}", seed % 10_000)
}

fn vehicle(number: usize) -> Vehicle {
    Vehicle {
        class: "standard".into(),
        plate: format!("SIM-{number:04}"),
        model: MODELS[number % MODELS.len()].into(),
        seats: 4,
    }
}

/// Signs a driver in, registering him if nobody knows him yet.
pub(super) async fn driver(client: &Client, seed: u64, number: usize) -> Result<(), ApiError> {
    let phone = phone(1, seed, number);
    match sign_in(client, &phone).await {
        Err(error) if error.code() == Some("invalid_credentials") => {
            taken_is_fine(client.register_driver(&name(number), &phone, PASSWORD, &vehicle(number)).await)?;
            sign_in(client, &phone).await
        }
        signed_in => signed_in,
    }
}

/// Signs a rider in, registering him if nobody knows him yet.
pub(super) async fn rider(client: &Client, seed: u64, number: usize) -> Result<(), ApiError> {
    let phone = phone(2, seed, number);
    match sign_in(client, &phone).await {
        Err(error) if error.code() == Some("invalid_credentials") => {
            taken_is_fine(client.register_rider(&name(number), &phone, PASSWORD).await)?;
            sign_in(client, &phone).await
        }
        signed_in => signed_in,
    }
}

async fn sign_in(client: &Client, phone: &str) -> Result<(), ApiError> {
    let credentials = Credentials::Password { phone: phone.to_owned(), password: PASSWORD.to_owned() };
    client.sign_in(credentials).await.map(drop)
}

/// An earlier registration whose answer was lost is as good.
fn taken_is_fine<T>(registered: Result<T, ApiError>) -> Result<(), ApiError> {
    match registered {
        Err(error) if error.code() == Some("already_exists") => Ok(()),
        other => other.map(drop),
    }
}
