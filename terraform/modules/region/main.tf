# A region as data: what is asked for is checked here, once, for every place it can run. Nothing is created and no provider
# is needed; flavours/ turn a spec into running programs.

locals {
  region_node = {
    REGION_NODE_REGION__NAME       = var.name
    REGION_NODE_REGION__CLUSTER_ID = var.cluster_id
    REGION_NODE_ROLE               = "full"
    REGION_NODE_HTTP__PUBLIC_URL   = var.endpoints.base_url
    REGION_NODE_SYNC__QUIC_ADDR    = var.endpoints.quic
  }
  global_sync = {
    GLOBAL_SYNC_REGION__NAME       = var.name
    GLOBAL_SYNC_REGION__CLUSTER_ID = var.cluster_id
    GLOBAL_SYNC_PEERS              = length(var.peers) == 0 ? null : join(",", [for name, address in var.peers : "${name}=${address}"])
  }
  settings = {
    region_node = { for key, value in local.region_node : key => value if value != null }
    global_sync = { for key, value in local.global_sync : key => value if value != null }
  }
}
