variable "spec" {
  description = "A region, as modules/region gives it. The demo chooses sizes, addresses and certificates itself; of the spec it uses the name."
  type = object({
    name = string
  })
}

variable "program" {
  description = "The program behind `make up`."
  type        = string
}

variable "state_dir" {
  description = "The state folder of the running demo, where its cluster.json is."
  type        = string
}
