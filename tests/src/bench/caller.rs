//! A gateway's connection: kept alive, many drivers' reports over it one after the other.

use std::time::Duration;

use anyhow::Context;
use shared::clock::Clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Cars, Person, Stand};

/// One connection, and whose reports it carries.
pub struct Caller {
    address: String,
    /// The request of each driver up to its length.
    heads: Vec<String>,
    cars: Cars,
    /// Its place among all, so that they do not all call in the same millisecond.
    share: f64,
    /// Whose turn it is.
    next: usize,
}

impl Caller {
    /// Drivers dealt out to so many connections to the first node; `cars` are those of one connection, given its number
    /// and how many they are.
    pub fn several(
        stand: &Stand,
        connections: usize,
        drivers: &[Person],
        cars: impl Fn(usize, usize) -> Cars,
    ) -> Vec<Self> {
        let address = stand.url().trim_start_matches("http://").to_owned();
        let caller = |number| {
            let theirs = drivers.iter().skip(number).step_by(connections);
            let heads: Vec<_> = theirs.map(|driver| head(stand, &address, driver)).collect();
            let cars = cars(number, heads.len());
            Self { address: address.clone(), heads, cars, share: number as f64 / connections as f64, next: 0 }
        };
        (0..connections).map(caller).collect()
    }

    /// Reports for one driver after the other, going on where the last call ended, so often, for `duration`; how many reports
    /// that were.
    pub async fn call(&mut self, per_second: f64, duration: Duration) -> anyhow::Result<u64> {
        let mut connection = self.connect().await?;
        let every = Duration::from_secs_f64(1.0 / per_second);
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (begun, mut calls) = (Instant::now(), 0_u64);
        tokio::time::sleep(every.mul_f64(self.share)).await;
        while begun.elapsed() < duration {
            ticks.tick().await;
            self.report(&mut connection, self.next % self.heads.len()).await?;
            self.next += 1;
            calls += 1;
        }
        Ok(calls)
    }

    /// Reports for each driver once, as fast as the answers come.
    pub async fn once_round(&mut self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        for car in 0..self.heads.len() {
            self.report(&mut connection, car).await?;
        }
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, answer: Vec::new() })
    }

    async fn report(&mut self, connection: &mut Connection, car: usize) -> anyhow::Result<()> {
        let body = self.cars.report(car, 1, Clock::system().now());
        let request = format!("{}{}\r\n\r\n{body}", self.heads[car], body.len());
        connection.stream.write_all(request.as_bytes()).await?;
        connection.read_answer().await?;
        let answer = &connection.answer;
        anyhow::ensure!(answer.starts_with(b"HTTP/1.1 202"), "{}", String::from_utf8_lossy(answer));
        Ok(())
    }
}

fn head(stand: &Stand, address: &str, driver: &Person) -> String {
    let token = stand.signer.sign(&stand.tenant, driver.role, driver.id);
    format!(
        "POST /v1/drivers/{}/location HTTP/1.1\r\nhost: {address}\r\nx-tenant-id: {}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: ",
        driver.id, stand.tenant
    )
}

struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    /// Reads until the whole answer, whose length its header tells, is there.
    async fn read_answer(&mut self) -> anyhow::Result<()> {
        self.answer.clear();
        loop {
            anyhow::ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the server hung up");
            let text = String::from_utf8_lossy(&self.answer);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.context("no content-length")?.parse()? {
                    return Ok(());
                }
            }
        }
    }
}
