output "region" {
  description = "Where the region answers: name, http, quic, sync_status_url; the addresses are null while the demo does not run."
  value = {
    name            = var.spec.name
    http            = try(local.found.http, null)
    quic            = try(local.found.quic, null)
    sync_status_url = try(local.found.sync_status_url, null)
  }
}
