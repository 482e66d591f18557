/* The short way of a lease as a C extension: a prototype to measure, never shipped.

   The steps are those of src/millpond/_core/lease.py, Acquire: same checks, same books, same calls of the
   driver, same order. Whatever is unusual goes to the Python methods of the pool. What differs:

   - an Acquire is its own awaitable and answers at the first send: no coroutine object;
   - places and leases have fields at fixed offsets, times are doubles;
   - what the pool's attributes say is copied into a Desk, anew whenever the pool looks whether the short way
     is open (Desk.sync);
   - the current task comes straight from asyncio's dictionary, and a standard loop's clock from the system.

   For CPython 3.11 to 3.13 with the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pythread.h>
#include <stddef.h>
#include <structmember.h>
#include <time.h>

#define MOST_KEPT 64

static PyTypeObject *slot_type, *acquire_type, *done_type, *desk_type;
static PyObject *done, *monotonic, *current_tasks, *cancelled_error;
static PyObject *unasked, *spent, *unset, *busy, *idle_state, *keep, *begin, *begin_bare;
static PyObject *str_end, *str_take, *str_pass_on, *str_fold, *str_no_verdict, *str_lender, *end_names;
static long noted;

/* -- a place and its connection ------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *conn, *hold, *sharers, *state, *doom, *number, *generation, *uses;
    double draw, _idle_since, opened_at, _proved_at, retire_at, returned_at, keep_until;
    char is_new, needs_reset, was_lent;
} Slot;

#define OBJECT(name) {#name, T_OBJECT_EX, offsetof(Slot, name), 0, NULL}
#define DOUBLE(name) {#name, T_DOUBLE, offsetof(Slot, name), 0, NULL}
#define FLAG(name) {#name, T_BOOL, offsetof(Slot, name), 0, NULL}
static PyMemberDef slot_members[] = {
    OBJECT(conn), OBJECT(hold), OBJECT(sharers), OBJECT(state), OBJECT(doom), OBJECT(number),
    OBJECT(generation), OBJECT(uses),
    DOUBLE(draw), DOUBLE(_idle_since), DOUBLE(opened_at), DOUBLE(_proved_at), DOUBLE(retire_at),
    DOUBLE(returned_at), DOUBLE(keep_until),
    FLAG(is_new), FLAG(needs_reset), FLAG(was_lent), {NULL},
};

static int slot_traverse(Slot *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->conn);
    Py_VISIT(self->hold);
    Py_VISIT(self->sharers);
    Py_VISIT(self->state);
    Py_VISIT(self->doom);
    return 0;
}

static int slot_clear(Slot *self) {
    Py_CLEAR(self->conn);
    Py_CLEAR(self->hold);
    Py_CLEAR(self->sharers);
    Py_CLEAR(self->state);
    Py_CLEAR(self->doom);
    Py_CLEAR(self->number);
    Py_CLEAR(self->generation);
    Py_CLEAR(self->uses);
    return 0;
}

static void slot_dealloc(Slot *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    slot_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot slot_slots[] = {
    {Py_tp_new, PyType_GenericNew}, {Py_tp_members, slot_members}, {Py_tp_traverse, slot_traverse},
    {Py_tp_clear, slot_clear}, {Py_tp_dealloc, slot_dealloc}, {0, NULL},
};
static PyType_Spec slot_spec = {
    "_short_way.Slot", sizeof(Slot), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slot_slots,
};

/* -- what the pool looks like from the short way --------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *pool, *idle, *home, *clock, *is_closed, *after_lease, *held, *hold_times, *order, *queue, *lender;
    double trusted_s;
    unsigned long thread;
    char is_standard_clock;
} Desk;

static PyObject **desk_fields(Desk *self, int index) {
    PyObject **fields[] = {&self->idle, &self->home, &self->clock, &self->is_closed, &self->after_lease,
                           &self->held, &self->hold_times, &self->order, &self->queue, &self->lender};
    return fields[index];
}

static PyObject *desk_sync(Desk *self, PyObject *Py_UNUSED(unused)) {
    static const char *names[] = {"_idle", "_home", "_now", "_is_closed", "_after_lease",
                                  "_held", "_hold_times", "_order", "_queue", "_lender"};
    for (int index = 0; index < 10; index++) {
        PyObject *value = PyObject_GetAttrString(self->pool, names[index]);
        if (value == NULL) return NULL;
        Py_XSETREF(*desk_fields(self, index), value);
    }
    PyObject *trusted = PyObject_GetAttrString(self->pool, "_trusted_s");
    if (trusted == NULL) return NULL;
    self->trusted_s = PyFloat_AsDouble(trusted);
    Py_DECREF(trusted);
    if (self->trusted_s == -1.0 && PyErr_Occurred()) return NULL;
    if (!PyList_CheckExact(self->idle) || !PyList_CheckExact(self->held)) {
        PyErr_SetString(PyExc_TypeError, "the shelf and the hold times must be lists");
        return NULL;
    }
    self->is_standard_clock = self->clock == monotonic;
    self->thread = PyThread_get_thread_ident(); /* a pool looks in its loop's own thread only */
    Py_RETURN_NONE;
}

static int desk_init(Desk *self, PyObject *args, PyObject *names) {
    PyObject *pool;
    if (!PyArg_ParseTuple(args, "O", &pool)) return -1;
    Py_XSETREF(self->pool, Py_NewRef(pool));
    PyObject *synced = desk_sync(self, NULL);
    Py_XDECREF(synced);
    return synced == NULL ? -1 : 0;
}

static int desk_traverse(Desk *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->pool);
    for (int index = 0; index < 10; index++) Py_VISIT(*desk_fields(self, index));
    return 0;
}

static int desk_clear(Desk *self) {
    Py_CLEAR(self->pool);
    for (int index = 0; index < 10; index++) Py_CLEAR(*desk_fields(self, index));
    return 0;
}

static void desk_dealloc(Desk *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    desk_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static int desk_now(Desk *self, double *now) {
    if (self->is_standard_clock) {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        *now = (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
        return 0;
    }
    PyObject *answer = PyObject_CallNoArgs(self->clock);
    if (answer == NULL) return -1;
    *now = PyFloat_AsDouble(answer);
    Py_DECREF(answer);
    return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* The task that runs in the loop of the short way now, borrowed; NULL without an error: there is none. */
static PyObject *desk_task(Desk *self) {
    return PyDict_GetItemWithError(current_tasks, self->home);
}

/* A plain function of a driver raised: is it one of calls.FAULTS? Then the error is gone. */
static int forgave_fault(void) {
    if (!PyErr_ExceptionMatches(PyExc_Exception) && !PyErr_ExceptionMatches(cancelled_error)) return 0;
    PyErr_Clear();
    return 1;
}

/* -- a lease ----------------------------------------------------------------------------------- */

enum { NEW, READY, TAKEN };

typedef struct {
    PyObject_HEAD
    PyObject *pool, *timeout, *slot, *task, *_number;
    Desk *desk;
    double since;
    char is_explicit, is_told, step;
} Acquire;

static PyMemberDef acquire_members[] = {
    {"pool", T_OBJECT_EX, offsetof(Acquire, pool), 0, NULL},
    {"timeout", T_OBJECT_EX, offsetof(Acquire, timeout), 0, NULL},
    {"slot", T_OBJECT_EX, offsetof(Acquire, slot), 0, NULL},
    {"task", T_OBJECT_EX, offsetof(Acquire, task), 0, NULL},
    {"_number", T_OBJECT_EX, offsetof(Acquire, _number), 0, NULL},
    {"since", T_DOUBLE, offsetof(Acquire, since), 0, NULL},
    {"explicit", T_BOOL, offsetof(Acquire, is_explicit), 0, NULL},
    {"is_told", T_BOOL, offsetof(Acquire, is_told), 0, NULL},
    {NULL},
};

static Acquire *kept[MOST_KEPT];
static int kept_count;

static PyObject *desk_acquire(Desk *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *timeout = unset;
    Py_ssize_t all = count + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
    if (all > 1 || (all > count && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "timeout"))) {
        PyErr_SetString(PyExc_TypeError, "acquire() takes a timeout and nothing else");
        return NULL;
    }
    if (all == 1) timeout = args[0];
    Acquire *hold;
    if (kept_count) {
        hold = kept[--kept_count];
        _Py_NewReference((PyObject *)hold);
        Py_INCREF(acquire_type);
    } else if ((hold = PyObject_GC_New(Acquire, acquire_type)) == NULL) {
        return NULL;
    }
    hold->pool = Py_NewRef(self->pool);
    hold->timeout = Py_NewRef(timeout);
    hold->slot = Py_NewRef(unasked);
    hold->desk = (Desk *)Py_NewRef(self);
    hold->task = hold->_number = NULL;
    hold->since = 0.0;
    hold->is_explicit = hold->is_told = 0;
    hold->step = NEW;
    PyObject_GC_Track(hold);
    return (PyObject *)hold;
}

static int acquire_traverse(Acquire *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->pool);
    Py_VISIT(self->timeout);
    Py_VISIT(self->slot);
    Py_VISIT(self->task);
    Py_VISIT(self->desk);
    return 0;
}

static int acquire_clear(Acquire *self) {
    Py_CLEAR(self->pool);
    Py_CLEAR(self->timeout);
    Py_CLEAR(self->slot);
    Py_CLEAR(self->task);
    Py_CLEAR(self->_number);
    Py_CLEAR(self->desk);
    return 0;
}

static void acquire_dealloc(Acquire *self) {
    PyObject_GC_UnTrack(self);
    acquire_clear(self);
    if (kept_count < MOST_KEPT) {
        kept[kept_count++] = self;
    } else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(acquire_type);
}

/* Lend what lies on top of the shelf. 1: done; 0: this is for the long way; -1: an error is set. */
static int take_short_way(Acquire *self) {
    Desk *desk = self->desk;
    PyObject *idle = desk->idle, *task;
    Py_ssize_t last = PyList_GET_SIZE(idle) - 1;
    if (last < 0 || self->slot != unasked || desk->thread != PyThread_get_thread_ident()) return 0;
    if ((task = desk_task(desk)) == NULL) return PyErr_Occurred() ? -1 : 0;
    Slot *slot = (Slot *)PyList_GET_ITEM(idle, last);
    if (!PyObject_TypeCheck(slot, slot_type)) return 0;
    Py_INCREF(task);
    ((PyListObject *)idle)->ob_item[last] = NULL; /* list.pop(), whose reference is now ours */
    Py_SET_SIZE(idle, last);
    double now;
    int usable = desk_now(desk, &now) < 0 ? -1 : now - slot->returned_at < desk->trusted_s;
    if (usable > 0) {
        PyObject *answer = PyObject_CallOneArg(desk->is_closed, slot->conn);
        int is_closed = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
        usable = is_closed >= 0 ? !is_closed : forgave_fault() ? 0 : -1;
    }
    if (usable > 0) {
        Py_XSETREF(slot->state, Py_NewRef(busy));
        self->since = now;
        Py_XSETREF(self->task, task);
        Py_XSETREF(slot->hold, Py_NewRef(self));
        Py_XSETREF(self->slot, (PyObject *)slot);
        self->step = READY;
        return 1;
    }
    Py_DECREF(task);
    PyObject *kind, *value, *trace;
    PyErr_Fetch(&kind, &value, &trace);
    if (PyList_Append(idle, (PyObject *)slot) < 0) PyErr_Clear(); /* it had room a moment ago */
    Py_DECREF(slot);
    PyErr_Restore(kind, value, trace);
    return usable;
}

static PyObject *acquire_aenter(Acquire *self, PyObject *Py_UNUSED(unused)) {
    int found = take_short_way(self);
    if (found < 0) return NULL;
    return found ? Py_NewRef(self) : PyObject_CallOneArg(begin, (PyObject *)self);
}

static PyObject *acquire_await(Acquire *self) {
    if (self->step == READY) return Py_NewRef(self); /* __aenter__ has been there */
    self->is_explicit = 1;
    int found = take_short_way(self);
    if (found < 0) return NULL;
    return found ? Py_NewRef(self) : PyObject_CallOneArg(begin_bare, (PyObject *)self);
}

static PySendResult acquire_send(Acquire *self, PyObject *Py_UNUSED(value), PyObject **result) {
    *result = NULL;
    if (self->step != READY) {
        PyErr_SetString(PyExc_RuntimeError, "this lease has been given already");
        return PYGEN_ERROR;
    }
    self->step = TAKEN;
    *result = Py_NewRef(((Slot *)self->slot)->conn);
    return PYGEN_RETURN;
}

static PyObject *acquire_next(Acquire *self) {
    PyObject *conn;
    if (acquire_send(self, NULL, &conn) == PYGEN_RETURN) {
        PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, conn);
        if (stop != NULL) PyErr_SetObject(PyExc_StopIteration, stop);
        Py_XDECREF(stop);
        Py_DECREF(conn);
    }
    return NULL;
}

/* The clean end of a lease in its own task, in time, with KEEP. As above; `verdict` is owned by the caller. */
static int end_short_way(Acquire *self, PyObject **verdict) {
    Desk *desk = self->desk;
    Slot *slot = (Slot *)self->slot;
    double now;
    if (!PyObject_TypeCheck(slot, slot_type)) return 0;
    if (desk_now(desk, &now) < 0) return -1;
    if (!(now < slot->keep_until) || self->task == NULL) return 0;
    PyObject *task = desk_task(desk);
    if (task != self->task) return PyErr_Occurred() ? -1 : 0;
    PyObject *arguments[] = {slot->conn, Py_None};
    *verdict = PyObject_Vectorcall(desk->after_lease, arguments, 2, NULL);
    if (*verdict == NULL) {
        PyObject *kind, *fault, *trace;
        PyErr_Fetch(&kind, &fault, &trace);
        PyErr_NormalizeException(&kind, &fault, &trace);
        if (!PyErr_GivenExceptionMatches(kind, PyExc_Exception) &&
            !PyErr_GivenExceptionMatches(kind, cancelled_error)) {
            PyErr_Restore(kind, fault, trace);
            return -1;
        }
        *verdict = PyObject_CallMethodOneArg(desk->lender, str_no_verdict, fault);
        Py_XDECREF(kind);
        Py_XDECREF(fault);
        Py_XDECREF(trace);
        if (*verdict == NULL) return -1;
    }
    if (*verdict != keep) return 0;
    self->slot = Py_NewRef(spent); /* its reference is ours until the slot lies on the shelf */
    slot->returned_at = now;
    int done_well = -1;
    PyObject *lasted = PyFloat_FromDouble(now - self->since), *answer;
    if (lasted == NULL || PyList_Append(desk->held, lasted) < 0) goto end;
    if (PyList_GET_SIZE(desk->held) > noted) {
        if ((answer = PyObject_CallMethodNoArgs(desk->hold_times, str_fold)) == NULL) goto end;
        Py_DECREF(answer);
    }
    int somebody_waits = PyObject_IsTrue(desk->order);
    if (somebody_waits < 0) goto end;
    if (somebody_waits) {
        PyObject *waiter = PyObject_CallMethodNoArgs(desk->queue, str_take);
        if (waiter == NULL) goto end;
        if (waiter != Py_None) {
            PyObject *at = PyFloat_FromDouble(now);
            answer = at == NULL ? NULL
                : PyObject_CallMethodObjArgs(desk->lender, str_pass_on, (PyObject *)slot, waiter, at, NULL);
            Py_XDECREF(at);
            Py_DECREF(waiter);
            if (answer == NULL) goto end;
            Py_DECREF(answer);
            done_well = 1;
            goto end;
        }
        Py_DECREF(waiter);
    }
    Py_XSETREF(slot->hold, Py_NewRef(Py_None));
    Py_XSETREF(slot->state, Py_NewRef(idle_state));
    slot->was_lent = 1;
    if (PyList_Append(desk->idle, (PyObject *)slot) < 0) goto end;
    done_well = 1;
end:
    Py_XDECREF(lasted);
    Py_DECREF(slot);
    return done_well;
}

static PyObject *acquire_aexit(Acquire *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "__aexit__() takes three arguments");
        return NULL;
    }
    PyObject *verdict = NULL;
    /* Who has waited may have been served by another pool, in whose books the lease stands. */
    int ended = args[1] == Py_None && self->pool == self->desk->pool ? end_short_way(self, &verdict) : 0;
    if (ended == 0) {
        PyObject *lender = PyObject_GetAttr(self->pool, str_lender), *answer = NULL;
        if (lender != NULL) {
            PyObject *arguments[] = {lender, (PyObject *)self, args[1], verdict ? verdict : Py_None};
            answer = PyObject_VectorcallMethod(str_end, arguments, 3, end_names);
            Py_DECREF(lender);
        }
        ended = answer == NULL ? -1 : 1;
        Py_XDECREF(answer);
    }
    Py_XDECREF(verdict);
    return ended < 0 ? NULL : Py_NewRef(done);
}

static PyMethodDef acquire_methods[] = {
    {"__aenter__", (PyCFunction)acquire_aenter, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))acquire_aexit, METH_FASTCALL, NULL},
    {NULL},
};
static PyType_Slot acquire_slots[] = {
    {Py_tp_members, acquire_members}, {Py_tp_methods, acquire_methods}, {Py_tp_traverse, acquire_traverse},
    {Py_tp_clear, acquire_clear}, {Py_tp_dealloc, acquire_dealloc}, {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, acquire_next}, {Py_am_await, acquire_await}, {Py_am_send, acquire_send}, {0, NULL},
};
static PyType_Spec acquire_spec = {
    "_short_way.Acquire", sizeof(Acquire), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, acquire_slots,
};

static PyMethodDef desk_methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))desk_acquire, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"sync", (PyCFunction)desk_sync, METH_NOARGS, NULL},
    {NULL},
};
static PyType_Slot desk_slots[] = {
    {Py_tp_new, PyType_GenericNew}, {Py_tp_init, desk_init}, {Py_tp_methods, desk_methods},
    {Py_tp_traverse, desk_traverse}, {Py_tp_clear, desk_clear}, {Py_tp_dealloc, desk_dealloc}, {0, NULL},
};
static PyType_Spec desk_spec = {
    "_short_way.Desk", sizeof(Desk), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, desk_slots,
};

/* -- what is done already; and an `async with` over nothing, for the floor ----------------------------- */

static PySendResult done_send(PyObject *self, PyObject *value, PyObject **result) {
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

static PyObject *done_next(PyObject *self) { return NULL; /* the end, with None */ }

static PyObject *done_enter(PyObject *self, PyObject *Py_UNUSED(unused)) { return Py_NewRef(self); }

static PyObject *done_exit(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    return Py_NewRef(self);
}

static PyMethodDef done_methods[] = {
    {"__aenter__", done_enter, METH_NOARGS, NULL},
    {"__aexit__", (PyCFunction)(void (*)(void))done_exit, METH_FASTCALL, NULL},
    {NULL},
};
static PyType_Slot done_slots[] = {
    {Py_tp_new, PyType_GenericNew}, {Py_tp_methods, done_methods}, {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, done_next}, {Py_am_await, PyObject_SelfIter}, {Py_am_send, done_send}, {0, NULL},
};
static PyType_Spec done_spec = {"_short_way.Nothing", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, done_slots};

/* -- a driver's two answers, compiled ----------------------------------------------------------------- */

static PyObject *never_closed(PyObject *self, PyObject *conn) { Py_RETURN_FALSE; }

static PyObject *always_keep(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    return Py_NewRef(keep);
}

/* -- the module ---------------------------------------------------------------------------------- */

static PyObject *prepare(PyObject *self, PyObject *names) {
    PyObject **wanted[] = {&unasked, &spent, &unset, &busy, &idle_state, &keep, &begin, &begin_bare,
                           &current_tasks, &cancelled_error, &monotonic};
    static const char *keys[] = {"unasked", "spent", "unset", "busy", "idle", "keep", "begin", "begin_bare",
                                 "current_tasks", "cancelled_error", "monotonic"};
    for (int index = 0; index < 11; index++) {
        PyObject *value = PyDict_GetItemString(names, keys[index]);
        if (value == NULL) return PyErr_Format(PyExc_KeyError, "%s", keys[index]);
        Py_XSETREF(*wanted[index], Py_NewRef(value));
    }
    PyObject *most = PyDict_GetItemString(names, "noted");
    noted = most == NULL ? -1 : PyLong_AsLong(most);
    if (noted < 0) return PyErr_Format(PyExc_KeyError, "noted");
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"prepare", prepare, METH_O, "Take what the short way compares with and calls, by name."},
    {"never_closed", never_closed, METH_O, NULL},
    {"always_keep", (PyCFunction)(void (*)(void))always_keep, METH_FASTCALL, NULL},
    {NULL},
};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_short_way", NULL, -1, functions};

PyMODINIT_FUNC PyInit__short_way(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    struct { PyTypeObject **type; PyType_Spec *spec; const char *name; } types[] = {
        {&slot_type, &slot_spec, "Slot"}, {&acquire_type, &acquire_spec, "Acquire"},
        {&desk_type, &desk_spec, "Desk"}, {&done_type, &done_spec, "Nothing"},
    };
    for (int index = 0; index < 4; index++) {
        *types[index].type = (PyTypeObject *)PyType_FromSpec(types[index].spec);
        if (*types[index].type == NULL || PyModule_AddObjectRef(module, types[index].name,
                (PyObject *)*types[index].type) < 0) return NULL;
    }
    done = PyObject_CallNoArgs((PyObject *)done_type);
    str_end = PyUnicode_InternFromString("end");
    str_take = PyUnicode_InternFromString("take");
    str_pass_on = PyUnicode_InternFromString("pass_on");
    str_fold = PyUnicode_InternFromString("fold");
    str_no_verdict = PyUnicode_InternFromString("no_verdict");
    str_lender = PyUnicode_InternFromString("_lender");
    end_names = Py_BuildValue("(s)", "verdict");
    if (!done || !str_end || !str_take || !str_pass_on || !str_fold || !str_no_verdict || !str_lender ||
        !end_names) return NULL;
    return module;
}
