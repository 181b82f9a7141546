variable "regions" {
  description = "The regions to add, by name. One that is taken out of the list is removed from the demo."
  type        = map(object({ labels = optional(map(string), {}) }))
  default     = { sa-east = {} }
}

variable "program" {
  description = "The program behind `make up`; by default the one `make up` builds."
  type        = string
  default     = null
}

variable "state_dir" {
  description = "The demo's state folder; by default .local in the repository."
  type        = string
  default     = null
}
