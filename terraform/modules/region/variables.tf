variable "name" {
  description = "The region's name: in tokens, in the X-Served-By-Region header, in its certificates. It cannot change later."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9-]{2,40}$", var.name))
    error_message = "A region's name has 2 to 40 small letters, digits and hyphens, for example us-east."
  }
}

variable "cluster_id" {
  description = "The mesh the region belongs to; its certificates say gocomet://CLUSTER_ID/NAME."
  type        = string
  default     = "gocomet"
  validation {
    condition     = can(regex("^[a-z0-9-]{2,40}$", var.cluster_id))
    error_message = "A cluster id has 2 to 40 small letters, digits and hyphens."
  }
}

variable "region_nodes" {
  description = "How many region-nodes serve the region, and the size of each."
  type = object({
    count      = optional(number, 2)
    cpu_millis = optional(number, 1000)
    memory_mib = optional(number, 1024)
  })
  default  = {}
  nullable = false
  validation {
    condition     = var.region_nodes.count >= 1 && var.region_nodes.count <= 100 && floor(var.region_nodes.count) == var.region_nodes.count
    error_message = "A region has 1 to 100 region-nodes."
  }
  validation {
    condition     = var.region_nodes.cpu_millis >= 100 && var.region_nodes.memory_mib >= 128
    error_message = "A region-node needs at least 100 millis of a CPU and 128 MiB."
  }
}

variable "global_sync" {
  description = "One global-sync, or a leader and its standby, and the size of each."
  type = object({
    count      = optional(number, 2)
    cpu_millis = optional(number, 500)
    memory_mib = optional(number, 512)
  })
  default  = {}
  nullable = false
  validation {
    condition     = contains([1, 2], var.global_sync.count)
    error_message = "A region has one global-sync, or two: leader and standby."
  }
  validation {
    condition     = var.global_sync.cpu_millis >= 100 && var.global_sync.memory_mib >= 256
    error_message = "A global-sync needs at least 100 millis of a CPU and 256 MiB: that much it may use while a peer is away."
  }
}

variable "database" {
  description = "The region's Postgres."
  type = object({
    version           = optional(number, 15)
    cpu_millis        = optional(number, 2000)
    memory_mib        = optional(number, 4096)
    storage_gib       = optional(number, 50)
    high_availability = optional(bool, true)
  })
  default  = {}
  nullable = false
  validation {
    condition     = var.database.version >= 15
    error_message = "The migrations need Postgres 15 or later."
  }
  validation {
    condition     = var.database.cpu_millis >= 500 && var.database.memory_mib >= 512 && var.database.storage_gib >= 10
    error_message = "The database needs at least 500 millis of a CPU, 512 MiB and 10 GiB of storage."
  }
}

variable "redis" {
  description = "The region's Redis or Valkey: live state that may be lost at any moment, so there is nothing to back up."
  type = object({
    version    = optional(number, 7)
    memory_mib = optional(number, 512)
  })
  default  = {}
  nullable = false
  validation {
    condition     = var.redis.version >= 7
    error_message = "The fan-out between nodes needs Redis 7 or later."
  }
  validation {
    condition     = var.redis.memory_mib >= 64
    error_message = "Redis needs at least 64 MiB."
  }
}

variable "network" {
  description = "The region's own address range, who may call its API, and who may open replication connections."
  type = object({
    cidr         = optional(string)
    client_cidrs = optional(list(string), ["0.0.0.0/0", "::/0"])
    peer_cidrs   = optional(list(string), [])
  })
  default  = {}
  nullable = false
  validation {
    condition     = var.network.cidr == null ? true : try(cidrsubnet(var.network.cidr, 0, 0) == var.network.cidr && tonumber(split("/", var.network.cidr)[1]) <= 26, false)
    error_message = "network.cidr is the first address of a range of /26 or larger, for example 10.40.0.0/16."
  }
  validation {
    condition     = alltrue([for cidr in concat(var.network.client_cidrs, var.network.peer_cidrs) : can(cidrhost(cidr, 0))])
    error_message = "client_cidrs and peer_cidrs are address ranges, for example 203.0.113.0/24."
  }
}

variable "endpoints" {
  description = "Where clients (base_url) and other regions (quic) reach the region. A flavour that chooses addresses itself leaves them out."
  type = object({
    base_url = optional(string)
    quic     = optional(string)
  })
  default  = {}
  nullable = false
  validation {
    condition     = var.endpoints.base_url == null ? true : can(regex("^https?://[A-Za-z0-9.:\\[\\]-]+$", var.endpoints.base_url))
    error_message = "endpoints.base_url is scheme and host without a path, for example https://sa-east.example.org."
  }
  validation {
    condition     = var.endpoints.quic == null ? true : can(regex("^[A-Za-z0-9.:\\[\\]-]+:[0-9]{1,5}$", var.endpoints.quic))
    error_message = "endpoints.quic is host:port, for example sync.sa-east.example.org:7000."
  }
}

variable "images" {
  description = "Container images, for flavours that run containers. Named by version or digest: latest would make two applies differ."
  type = object({
    region_node = optional(string)
    global_sync = optional(string)
  })
  default  = {}
  nullable = false
  validation {
    condition = alltrue([
      for image in [var.images.region_node, var.images.global_sync] :
      image == null ? true : can(regex("(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9_.-]*)$", image)) && !can(regex(":latest$", image))
    ])
    error_message = "An image is named with a version or a digest, for example gocomet/region-node:0.1.0."
  }
}

variable "peers" {
  description = "Replication addresses of the other regions by name. One is enough to join: the directory announces the rest."
  type        = map(string)
  default     = {}
  nullable    = false
  validation {
    condition     = alltrue([for name, address in var.peers : can(regex("^[a-z0-9-]{2,40}$", name)) && can(regex("^[A-Za-z0-9.:\\[\\]-]+:[0-9]{1,5}$", address))])
    error_message = "Peers are given as region = \"host:port\"."
  }
}

variable "labels" {
  description = "Labels put on everything a flavour creates."
  type        = map(string)
  default     = {}
  nullable    = false
}
