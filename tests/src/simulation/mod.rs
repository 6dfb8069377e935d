//! A fleet that exists in memory: real planner, real apply machine, a network and a power grid that fail as a seed says.
//!
//! One queue holds everything that will happen, ordered by time; nothing reads a clock or a random source but the seed. So a run
//! is repeated exactly by its seed, and hours pass in milliseconds. What must hold is looked at after each step ([`checks`]); after
//! [`Faults::until_s`] the faults stop and everything must come to rest.

pub mod checks;
pub mod controller;
pub mod device;
pub mod network;

use std::collections::BTreeMap;

use ensign_bundle::digest::DeviceId;

use crate::random::Random;
use checks::Checks;
use controller::Controller;
use device::{Nature, VirtualDevice};
use network::{Item, Network};

/// When every run starts, unix seconds.
pub const START: u64 = 1_800_000_000;
/// Longest time that a run may take to come to rest once the faults are over, seconds.
const REST_WITHIN_S: u64 = 48 * 3600;

/// What goes wrong, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Messages lost, of 1000.
    pub loss: usize,
    /// Messages that arrive twice, of 1000.
    pub twice: usize,
    /// Longest delay of a message, milliseconds.
    pub delay_ms: usize,
    /// Devices that lose power now and then, of 1000.
    pub power_cuts: usize,
    /// Devices on which the release is bad, of 1000.
    pub bad: usize,
    /// Devices that fall silent in their trial until the faults are over, of 1000.
    pub silent: usize,
    /// Mean time between crashes of the controller, seconds; 0 = none.
    pub controller_crash_s: usize,
    /// Seconds from the start.
    pub until_s: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 100,
            twice: 50,
            delay_ms: 3000,
            power_cuts: 100,
            bad: 40,
            silent: 30,
            controller_crash_s: 200,
            until_s: 3600,
        }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub steps: u64,
    /// Simulated seconds until everything was at rest.
    pub seconds: u64,
    pub crashes: u64,
    pub halts: u64,
    pub ok: u32,
    pub failed: u32,
    /// SHA-256 of every committed event: two runs of one seed agree on it.
    pub ledger: String,
}

pub struct Simulation {
    now_ms: u64,
    random: Random,
    faults: Faults,
    network: Network,
    controller: Controller,
    devices: BTreeMap<DeviceId, VirtualDevice>,
    checks: Checks,
    halts: u64,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Simulation({} devices, {} ms)", self.devices.len(), self.now_ms)
    }
}

impl Simulation {
    /// `n` approved devices that run the release before, and one rollout in three waves.
    pub fn new(seed: u64, n: u32, faults: Faults) -> Self {
        let mut random = Random::new(seed);
        let devices: BTreeMap<DeviceId, VirtualDevice> = (0..n)
            .map(|i| {
                let lot = random.below(1000);
                let nature = if lot < faults.bad {
                    Nature::Bad
                } else if lot < faults.bad + faults.silent {
                    Nature::Silent
                } else {
                    Nature::Good
                };
                let device = VirtualDevice::new(i, nature);
                (device.id, device)
            })
            .collect();
        let mut controller = Controller::new(devices.keys().copied().collect());
        let mut network = Network::default();
        for id in devices.keys() {
            network.at(random.below(30_000) as u64, Item::Power { device: *id, on: true });
        }
        network.at(60_000, Item::StartRollout);
        let end = faults.until_s * 1000;
        for id in devices.keys() {
            while random.below(1000) < faults.power_cuts {
                let at = random.below(usize::try_from(end).unwrap_or(usize::MAX)) as u64;
                network.at(at, Item::Power { device: *id, on: false });
                network.at(
                    at + 1000 + random.below(1_200_000) as u64,
                    Item::Power { device: *id, on: true },
                );
            }
        }
        network.at(end, Item::FaultsOver);
        controller.start(START);
        Self {
            now_ms: 0,
            random,
            faults,
            network,
            controller,
            devices,
            checks: Checks::default(),
            halts: 0,
        }
    }

    /// Runs until everything is at rest. An error names what did not hold.
    pub fn run(mut self) -> Result<Summary, String> {
        self.schedule_crash();
        let mut steps = 0;
        while let Some((at, item)) = self.network.pop() {
            self.now_ms = at;
            steps += 1;
            let device = item.device();
            self.happens(item);
            let unix = self.unix();
            self.checks
                .after_step(steps, unix, device, &self.controller, &self.devices)
                .map_err(|wrong| format!("step {steps}, second {}: {wrong}", at / 1000))?;
            if self.faults_over() && self.at_rest() {
                return self.summary(steps);
            }
            if at / 1000 > self.faults.until_s + REST_WITHIN_S {
                return Err(format!("not at rest: {}", self.controller.picture(unix)));
            }
        }
        Err("nothing will ever happen again".to_owned())
    }

    fn summary(mut self, steps: u64) -> Result<Summary, String> {
        let unix = self.unix();
        self.checks.at_rest(unix, &self.controller, &self.devices)?;
        let counts = self.controller.counts();
        Ok(Summary {
            steps,
            seconds: self.now_ms / 1000,
            crashes: self.controller.crashes,
            halts: self.halts,
            ok: counts.ok,
            failed: counts.failed,
            ledger: self.controller.ledger_digest(),
        })
    }

    fn unix(&self) -> u64 {
        START + self.now_ms / 1000
    }

    fn faults_over(&self) -> bool {
        self.now_ms >= self.faults.until_s * 1000
    }

    fn at_rest(&self) -> bool {
        self.controller.is_finished() && self.devices.values().all(VirtualDevice::is_quiet)
    }

    fn happens(&mut self, item: Item) {
        match item {
            Item::Power { device, on } => {
                let Some(d) = self.devices.get_mut(&device) else { return };
                let todo = if on { d.power_on(self.now_ms) } else { d.power_off() };
                self.device_does(device, todo);
            }
            Item::Work { device, boot, action } => {
                let Some(d) = self.devices.get_mut(&device) else { return };
                let todo = d.work(boot, &action, self.now_ms);
                self.device_does(device, todo);
            }
            Item::ToDevice { device, message } => {
                let Some(d) = self.devices.get_mut(&device) else { return };
                let todo = d.told(&message, self.now_ms);
                self.device_does(device, todo);
            }
            Item::ToController { device, message } => {
                let unix = self.unix();
                self.controller.heard(device, message, unix);
                self.controller_does();
            }
            Item::Wake { life } => {
                if life == self.controller.life {
                    let unix = self.unix();
                    self.controller.wake(unix);
                    self.controller_does();
                }
            }
            Item::Crash => {
                // The next commit may be its last: what follows from it was never sent.
                self.controller.crash_after = Some(self.random.below(4));
                self.network
                    .at(self.now_ms + 5000 + self.random.below(120_000) as u64, Item::Restart);
            }
            Item::Restart => {
                let unix = self.unix();
                self.controller.restart(unix);
                self.controller_does();
                self.schedule_crash();
            }
            Item::StartRollout => {
                let unix = self.unix();
                self.controller.start_rollout(unix);
                self.controller_does();
            }
            Item::Operator => {
                let unix = self.unix();
                self.controller.resume(unix);
                self.controller_does();
            }
            Item::FaultsOver => {
                let ids: Vec<DeviceId> = self.devices.keys().copied().collect();
                for id in ids {
                    let Some(d) = self.devices.get_mut(&id) else { continue };
                    if d.nature == Nature::Silent {
                        d.nature = Nature::Good;
                    }
                    let todo = d.power_on(self.now_ms);
                    self.device_does(id, todo);
                }
                self.network.at(self.now_ms, Item::Restart);
            }
        }
    }

    fn schedule_crash(&mut self) {
        if self.faults.controller_crash_s > 0 && !self.faults_over() {
            let wait = 1 + self.random.below(2 * self.faults.controller_crash_s * 1000) as u64;
            if self.now_ms + wait < self.faults.until_s * 1000 {
                self.network.at(self.now_ms + wait, Item::Crash);
            }
        }
    }

    fn device_does(&mut self, device: DeviceId, todo: device::Todo) {
        let Some(d) = self.devices.get(&device) else { return };
        for (after, action) in todo.work {
            let item = Item::Work {
                device,
                boot: d.boot,
                action,
            };
            self.network.at(self.now_ms + after, item);
        }
        for message in todo.send {
            self.send(&Item::ToController { device, message });
        }
    }

    fn controller_does(&mut self) {
        let now = self.unix();
        for (device, message) in self.controller.take_messages() {
            self.send(&Item::ToDevice { device, message });
        }
        if self.controller.take_halted() {
            self.halts += 1;
            // An operator looks at it ten minutes later and lets it go on.
            self.network.at(self.now_ms + 600_000, Item::Operator);
        }
        if let Some(at) = self.controller.wakeup(now) {
            let life = self.controller.life;
            self.network.at((at - START) * 1000, Item::Wake { life });
        }
    }

    /// Through the network, as it is today.
    fn send(&mut self, item: &Item) {
        let calm = self.faults_over();
        if !calm && self.random.below(1000) < self.faults.loss {
            return;
        }
        let copies = if !calm && self.random.below(1000) < self.faults.twice {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = if calm {
                20
            } else {
                20 + self.random.below(self.faults.delay_ms.max(1)) as u64
            };
            self.network.at(self.now_ms + delay, item.clone());
        }
    }
}
