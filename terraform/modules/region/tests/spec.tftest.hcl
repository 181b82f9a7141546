run "a_name_is_enough" {
  command = plan
  variables {
    name = "sa-east"
  }
  assert {
    condition     = output.spec.region_nodes.count == 2 && output.spec.global_sync.count == 2 && output.spec.database.high_availability
    error_message = "the defaults are those of a region that survives the loss of a machine"
  }
  assert {
    condition = output.settings.global_sync == {
      GLOBAL_SYNC_REGION__NAME       = "sa-east"
      GLOBAL_SYNC_REGION__CLUSTER_ID = "gocomet"
    }
    error_message = "what was not given is not set"
  }
}

run "addresses_become_settings" {
  command = plan
  variables {
    name      = "sa-east"
    endpoints = { base_url = "https://sa-east.example.org", quic = "sync.sa-east.example.org:7000" }
    peers     = { us-east = "sync.us-east.example.org:7000", eu-west = "203.0.113.7:7000" }
    network   = { cidr = "10.40.0.0/16", peer_cidrs = ["203.0.113.0/24", "2001:db8::/32"] }
    images    = { region_node = "registry.example.org:5000/gocomet/region-node:0.1.0" }
    labels    = { team = "mobility" }
  }
  assert {
    condition     = output.settings.region_node["REGION_NODE_HTTP__PUBLIC_URL"] == "https://sa-east.example.org"
    error_message = "clients are told the public address"
  }
  assert {
    condition     = output.settings.global_sync["GLOBAL_SYNC_PEERS"] == "eu-west=203.0.113.7:7000,us-east=sync.us-east.example.org:7000"
    error_message = "peers are listed by name"
  }
  assert {
    condition     = output.spec.labels == { team = "mobility", gocomet-cluster = "gocomet", gocomet-region = "sa-east" }
    error_message = "labels carry cluster and region"
  }
}

run "a_bad_name_is_refused" {
  command = plan
  variables {
    name = "Sa_East"
  }
  expect_failures = [var.name]
}

run "a_region_is_not_its_own_peer" {
  command = plan
  variables {
    name  = "sa-east"
    peers = { sa-east = "127.0.0.1:7000" }
  }
  expect_failures = [output.spec]
}

run "every_bad_value_is_refused_by_its_own_variable" {
  command = plan
  variables {
    name         = "sa-east"
    cluster_id   = "x"
    region_nodes = { count = 0 }
    global_sync  = { count = 3 }
    database     = { version = 14 }
    redis        = { memory_mib = 1 }
    network      = { cidr = "10.40.0.1/16" }
    endpoints    = { base_url = "https://example.org/path" }
    images       = { global_sync = "gocomet/global-sync:latest" }
    peers        = { us-east = "no-port" }
  }
  expect_failures = [
    var.cluster_id, var.region_nodes, var.global_sync, var.database, var.redis, var.network, var.endpoints, var.images, var.peers,
  ]
}

run "too_small_is_refused_too" {
  command = plan
  variables {
    name         = "sa-east"
    region_nodes = { memory_mib = 16 }
    global_sync  = { memory_mib = 16 }
    database     = { storage_gib = 1 }
    redis        = { version = 6 }
    network      = { cidr = "10.40.0.0/28" }
    endpoints    = { quic = "sa-east.example.org" }
    images       = { region_node = "gocomet/region-node" }
  }
  expect_failures = [var.region_nodes, var.global_sync, var.database, var.redis, var.network, var.endpoints, var.images]
}
