//! Devices whose grants today's deploy keys do not vouch for: they are in no new plan.

use ensign_api::{DeviceEvidence, DeviceState};
use ensign_bundle::reason::Code;

use super::status::{Finding, Level};
use crate::app::Session;
use crate::evidence::Inventory;
use crate::failure::{Failure, Result};
use crate::seen::{self, Seen};
use crate::units::show_count;

/// Looks at everybody's evidence, unless all counted under the same scopes before: what came since was accepted under them.
pub async fn finding(session: &mut Session) -> Option<Finding> {
    match uncounted(session).await {
        Ok(0) => None,
        Ok(devices) => Some(Finding {
            level: Level::Warning,
            text: format!(
                "{} in no new plan: not enough of today's deploy keys have signed their grants",
                show_count(devices, "device")
            ),
            hint: "`ensign device regrant --select all --dry-run`, then the same without --dry-run, each key holder"
                .to_owned(),
        }),
        Err(failure) => Some(Finding {
            level: Level::Critical,
            text: failure.text.clone(),
            hint: failure.hint_text().to_owned(),
        }),
    }
}

async fn uncounted(session: &mut Session) -> Result<u64, Failure> {
    session.trust.refresh(&session.client).await?;
    let scopes = seen::scopes(session)?;
    if Seen::load(session)?.is_sound(&scopes) {
        return Ok(0);
    }
    let mut rows: Vec<DeviceEvidence> = session.client.get("/v1/evidence").await?;
    rows.retain(|row| row.state != DeviceState::Revoked);
    let inventory = Inventory::verify(session, &rows)?;
    let by_keys = |code| matches!(code, Code::RoleNotAuthorised | Code::ThresholdNotMet | Code::Unsigned);
    let devices = inventory
        .refused
        .iter()
        .filter(|(_, refusal)| by_keys(refusal.code))
        .count();
    if devices == 0 {
        seen::remember_sound(session, scopes)?;
    }
    Ok(devices as u64)
}
