cdef class Place:
    cdef public object number, generation, state, conn, hold, sharers, doom, uses
    cdef public bint is_new, was_lent, needs_reset
    cdef public double opened_at, draw, _idle_since, _proved_at, retire_at, returned_at, keep_until


cdef class Desk:
    cdef public object pool, home, here, clock, is_closed, after_lease, hold_times, order, queue, lender
    cdef public list idle, held
    cdef public double trusted_s


cdef class Acquire:
    cdef public Desk desk
    cdef public object pool, timeout, slot, task, numbered
    cdef public bint explicit, is_told
    cdef public double since
