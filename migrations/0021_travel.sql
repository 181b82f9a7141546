-- Travel times are learned from a tenant's newest driven trips.
CREATE INDEX completed_trips_of_tenant ON trips (tenant_id, started_at DESC) WHERE status = 'completed';
