#!/bin/sh
# A sanitizer run that runs uninstrumented code proves nothing: every object of the library and of
# the command must refer to the run-time library of what make was asked for (SANITIZE), and to none
# otherwise.
. tests/e2e/common

archive=${BUILD:-build}/internal.a
command -v nm >/dev/null 2>&1 || exit 77
nm "$archive" >"$work/symbols" 2>/dev/null || exit 77

# Objects that refer to SYMBOL, out of all: "N of N".
objects_with() {
    awk -v symbol="$1" '
        /:$/ { objects++; found = 0 }
        $1 == "U" && $2 ~ symbol && !found { found = 1; with++ }
        END { print with + 0, "of", objects + 0 }' "$work/symbols"
}

check() { # NAME SYMBOL: in every object if SANITIZE has the name, else in none
    count=$(objects_with "$2")
    objects=${count#* of }
    case ${SANITIZE:-} in
    *"$1"*) wanted="$objects of $objects" ;;
    *) wanted="0 of $objects" ;;
    esac
    if [ "$objects" -gt 50 ] && [ "$count" = "$wanted" ]; then
        ok "$1: $count objects"
    else
        bad "$1" "$count objects are instrumented, must be $wanted"
    fi
}

check address '^_?__asan_init'
check thread '^_?__tsan_init'

# The undefined behaviour sanitizer leaves its mark only where there is something to check.
count=$(objects_with '^_?__ubsan_handle')
case ${SANITIZE:-}:$count in
*undefined*:0\ * | :[1-9]*) bad undefined "$count objects have its checks" ;;
*) ok "undefined: $count objects" ;;
esac

finish
