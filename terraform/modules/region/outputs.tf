output "spec" {
  description = "The region as a flavour takes it. Fields are added, never renamed or removed: a flavour written for an older spec keeps working."
  value = {
    name         = var.name
    cluster_id   = var.cluster_id
    region_nodes = var.region_nodes
    global_sync  = var.global_sync
    database     = var.database
    redis        = var.redis
    network      = var.network
    endpoints    = var.endpoints
    images       = var.images
    peers        = var.peers
    labels       = merge(var.labels, { "gocomet-cluster" = var.cluster_id, "gocomet-region" = var.name })
    settings     = local.settings
  }
  precondition {
    condition     = !contains(keys(var.peers), var.name)
    error_message = "${var.name} is listed as a peer of itself."
  }
}

output "settings" {
  description = "Environment of the two programs, without secrets: for an env file, a ConfigMap, a task definition."
  value       = local.settings
}
