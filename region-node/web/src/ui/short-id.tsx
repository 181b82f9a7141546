/** An id's last characters, which tell it from its neighbours; whole when pointed at. */
export function ShortId({ id }: { id: string }) {
  return (
    <span className="mono short-id" title={id}>
      …{id.slice(-8)}
    </span>
  );
}
